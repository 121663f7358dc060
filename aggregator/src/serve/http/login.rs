//! Who asks: a user certificate of the connection, or a name and password of each request.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;

use super::{Peer, Shared, refusal};
use crate::serve::auth::{Refusal, unbase64};

/// The name of the user whom the login found.
#[derive(Clone)]
pub(super) struct User(pub(super) String);

pub(super) async fn required(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Peer>,
    mut request: Request,
    next: Next,
) -> Response {
    match who(&shared, &peer, request.headers()).await {
        Ok(user) => {
            request.extensions_mut().insert(user);
            next.run(request).await
        }
        Err(why) => {
            let meaning = "a request without a valid login; check user and password, or add the \
                           user with `user add`";
            let (metrics, who) = (&shared.options.metrics, peer.address.to_string());
            metrics.refuse(&who, "login", &why.to_string(), meaning);
            let hint = "send a name and password, or a user certificate";
            let mut response = refusal(StatusCode::UNAUTHORIZED, "28P01", &why.to_string(), hint);
            let challenge =
                HeaderValue::from_static("Basic realm=\"tributary\", charset=\"UTF-8\"");
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, challenge);
            response
        }
    }
}

async fn who(shared: &Shared, peer: &Peer, headers: &HeaderMap) -> Result<User, Refusal> {
    let admission = &shared.options.admission;
    if let Some(identity) = &peer.identity {
        admission.not_revoked(identity)?;
        return Ok(User(identity.id.to_string()));
    }
    let given = headers.get(header::AUTHORIZATION).ok_or(Refusal::Missing)?;
    let (user, password) = basic(given).ok_or(Refusal::Missing)?;
    admission.password(&user, &password).await?;
    Ok(User(user))
}

/// Name and password of `Basic ..`.
fn basic(given: &HeaderValue) -> Option<(String, String)> {
    let (scheme, coded) = given.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let plain = String::from_utf8(unbase64(coded.trim())?).ok()?;
    let (user, password) = plain.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_may_hold_colons() {
        let given = HeaderValue::from_static("basic YWRhOmE6Yg==");
        assert_eq!(basic(&given), Some(("ada".into(), "a:b".into())));
        for bad in ["Bearer YWRhOmE6Yg==", "Basic", "Basic YWRh"] {
            assert_eq!(basic(&HeaderValue::from_static(bad)), None, "{bad}");
        }
    }
}
