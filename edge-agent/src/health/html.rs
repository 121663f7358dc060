//! The page for people: the same account as `/status`, as one table, without scripts. It loads
//! itself anew.

use std::fmt::Write as _;

use super::page::{CANNOT_FAIL, INTAKE_NUMBERS, NUMBERS, View};

const HEAD: &str = "<!doctype html><html lang=en><meta charset=utf-8>\
<meta http-equiv=refresh content=5><meta name=viewport content=\"width=device-width\">\
<style>body{font:15px sans-serif;margin:2em;max-width:60em}td{padding:.1em 1em .1em 0}\
td.n{text-align:right}.a{background:#fdd;padding:.5em;margin:.5em 0}</style>";

/// A whole HTML document.
pub(super) fn page(view: &View) -> String {
    let status = &view.status;
    let agent = escaped(&view.agent);
    let connection = if status.connected {
        format!("connected to {}", escaped(&status.server))
    } else {
        format!(
            "not connected; last tried {}: {}",
            escaped(&status.server),
            escaped(status.last_error.as_deref().unwrap_or("no attempt yet"))
        )
    };
    let mut html = format!("{HEAD}<title>{agent}</title><h1>{agent}</h1><p>{connection}</p>");
    for alarm in &view.alarms {
        write!(html, "<p class=a>{}</p>", escaped(alarm)).expect(CANNOT_FAIL);
    }
    html.push_str("<table>");
    for &(name, value, help) in NUMBERS {
        row(&mut html, help, value(status), name);
    }
    for account in &view.intakes {
        let name = escaped(&account.name);
        write!(html, "<tr><th colspan=3 align=left>{name}</th></tr>").expect(CANNOT_FAIL);
        for &(name, value, help) in INTAKE_NUMBERS {
            row(&mut html, help, value(&account.counters), name);
        }
    }
    html.push_str(
        "</table><p><a href=/status>for programs</a>, <a href=/metrics>for Prometheus</a></p></html>\n",
    );
    html
}

fn row(html: &mut String, help: &str, value: u64, name: &str) {
    write!(
        html,
        "<tr><td>{help}</td><td class=n>{value}</td><td><code>{name}</code></td></tr>"
    )
    .expect(CANNOT_FAIL);
}

/// A text that is no markup.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::intake::Account;
    use crate::status::{Setup, Status};

    #[test]
    fn the_page_says_what_is_wrong_and_lets_no_markup_in() {
        let view = View {
            agent: "gw1".to_owned(),
            status: Status {
                last_error: Some("uplink: <script>".to_owned()),
                pending_readings: 7,
                ..Status::default()
            },
            setup: Setup::default(),
            intakes: vec![Account::new("tcp://127.0.0.1:8094")],
            alarms: vec!["a & b".to_owned()],
            expires_seconds: None,
        };
        let html = page(&view);
        for part in [
            "<h1>gw1</h1>",
            "not connected",
            "uplink: &lt;script&gt;",
            "<p class=a>a &amp; b</p>",
            "<td class=n>7</td><td><code>pending_readings</code>",
            "tcp://127.0.0.1:8094",
        ] {
            assert!(html.contains(part), "{part} in {html}");
        }
        assert!(!html.contains("<script>"));
    }
}
