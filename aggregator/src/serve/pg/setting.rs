//! What a session may set, and what it is told. Every name that is accepted either takes effect or
//! asks for what is the case anyway; all others are refused. Pure.

use std::time::Duration;

use super::error::PgError;
use crate::serve::service::{Consistency, Protocol, Session};

const NAME_CHARS_MAX: usize = 64;

/// The settings of one session. Nothing here is shared with another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) session: Session,
    /// Zero, the default: as long as the node allows.
    pub(super) statement_timeout: Duration,
}

/// What may be wished, and what it is.
enum Wish {
    /// It is so, always.
    Is(&'static str),
    /// It has no meaning here: any value.
    Any(&'static str),
}

/// Told at the login, because drivers rely on it.
const TOLD: [&str; 8] = [
    "server_version",
    "server_encoding",
    "client_encoding",
    "DateStyle",
    "IntervalStyle",
    "TimeZone",
    "integer_datetimes",
    "standard_conforming_strings",
];

impl Settings {
    pub(super) fn new(user: &str) -> Settings {
        Settings {
            session: Session::new(Protocol::Postgres, user),
            statement_timeout: Duration::ZERO,
        }
    }

    /// What the client wished at its login. What cannot be is not refused here, for drivers wish
    /// much: they are told at once how things are.
    pub(super) fn wish(&mut self, name: &str, value: &str) {
        let _ = self.set(&name.to_lowercase(), value);
    }

    /// For `ParameterStatus`, at the login.
    pub(super) fn told(&self) -> Vec<(&'static str, String)> {
        let own = [
            (
                "application_name",
                self.session.settings.application_name.clone(),
            ),
            ("session_authorization", self.session.settings.user.clone()),
        ];
        let fixed = TOLD
            .into_iter()
            .filter_map(|name| Some((name, self.show(&name.to_lowercase())?)));
        fixed.chain(own).collect()
    }

    /// `name` is in lower case.
    pub(super) fn set(&mut self, name: &str, value: &str) -> Result<(), PgError> {
        match name {
            "application_name" => {
                let printable = value.chars().filter(|c| !c.is_control());
                self.session.settings.application_name = printable.take(NAME_CHARS_MAX).collect();
            }
            "statement_timeout" => self.statement_timeout = duration(value)?,
            "tributary.consistency" => {
                let consistency = Consistency::parse(&value.to_lowercase());
                self.session.consistency =
                    consistency.ok_or_else(|| cannot(name, value, "linearizable or stale"))?;
            }
            "timezone" => {
                let utc = [
                    "utc", "etc/utc", "gmt", "z", "0", "00:00", "default", "local",
                ];
                if !utc.contains(&value.to_lowercase().as_str()) {
                    return Err(cannot(
                        name,
                        value,
                        "times are always UTC; convert in the client",
                    ));
                }
            }
            "search_path" => {
                if !value
                    .split(',')
                    .any(|part| matches!(part.trim(), "public" | "default" | ""))
                {
                    return Err(cannot(name, value, "the one schema of tables is public"));
                }
            }
            _ => match wish(name) {
                Some(Wish::Any(_)) => {}
                Some(Wish::Is(is)) => {
                    // `ISO` for `ISO, MDY`, `utf-8` for `UTF8`, `true` for `on`.
                    let first = |text: &str| {
                        let part = text.split(',').next().unwrap_or_default().trim();
                        part.replace(['-', '_'], "").to_lowercase()
                    };
                    let (wished, is) = (first(value), first(is));
                    let same = wished == is || is_true(&wished) && is_true(&is);
                    if !same && wished != "default" {
                        return Err(cannot(name, value, "only what SHOW says is possible"));
                    }
                }
                None => return Err(unknown(name)),
            },
        }
        Ok(())
    }

    pub(super) fn reset(&mut self, name: Option<&str>) -> Result<(), PgError> {
        let fresh = Settings::new(&self.session.settings.user);
        match name {
            None => *self = fresh,
            Some("application_name") => {
                self.session.settings.application_name.clear();
            }
            Some("statement_timeout") => self.statement_timeout = fresh.statement_timeout,
            Some("tributary.consistency") => self.session.consistency = Consistency::default(),
            Some(name) => {
                self.show(name).ok_or_else(|| unknown(name))?;
            }
        }
        Ok(())
    }

    /// `None`: there is no such setting. `name` is in lower case.
    pub(super) fn show(&self, name: &str) -> Option<String> {
        Some(match name {
            "application_name" => self.session.settings.application_name.clone(),
            "session_authorization" => self.session.settings.user.clone(),
            "statement_timeout" => match self.statement_timeout.as_millis() {
                0 => "0".to_owned(),
                millis => format!("{millis}ms"),
            },
            "tributary.consistency" => self.session.consistency.as_str().to_owned(),
            "timezone" => "UTC".to_owned(),
            "search_path" => "public".to_owned(),
            _ => match wish(name)? {
                Wish::Is(is) | Wish::Any(is) => is.to_owned(),
            },
        })
    }
}

fn wish(name: &str) -> Option<Wish> {
    Some(match name {
        "server_version" => Wish::Is("16.6"),
        "server_version_num" => Wish::Is("160006"),
        "server_encoding" | "client_encoding" => Wish::Is("UTF8"),
        "datestyle" => Wish::Is("ISO, MDY"),
        "intervalstyle" => Wish::Is("postgres"),
        "bytea_output" => Wish::Is("hex"),
        "integer_datetimes" | "standard_conforming_strings" => Wish::Is("on"),
        "is_superuser" | "in_hot_standby" => Wish::Is("off"),
        "max_identifier_length" => Wish::Is("63"),
        // Nothing is written, and each statement sees one state: any of these is kept.
        "default_transaction_isolation" | "transaction_isolation" => Wish::Any("serializable"),
        "default_transaction_read_only" | "transaction_read_only" => Wish::Any("on"),
        // Floats are always written with all their digits.
        "extra_float_digits" => Wish::Any("1"),
        // Nothing to wait for, and nothing to say.
        "lock_timeout" | "idle_in_transaction_session_timeout" | "idle_session_timeout" => {
            Wish::Any("0")
        }
        "client_min_messages" => Wish::Any("notice"),
        "default_transaction_deferrable"
        | "transaction_deferrable"
        | "row_security"
        | "synchronous_commit"
        | "jit" => Wish::Any("off"),
        _ => return None,
    })
}

fn is_true(word: &str) -> bool {
    matches!(word, "on" | "true" | "yes" | "1")
}

/// Milliseconds, or with a unit, as PostgreSQL has it.
fn duration(text: &str) -> Result<Duration, PgError> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let millis = match text[digits..].trim() {
        "" | "ms" => Some(1),
        "s" => Some(1_000),
        "min" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    let count = text[..digits].parse::<u64>().ok();
    let total = count
        .zip(millis)
        .and_then(|(count, millis)| count.checked_mul(millis));
    match total {
        Some(total) => Ok(Duration::from_millis(total)),
        None if text.eq_ignore_ascii_case("default") => Ok(Duration::ZERO),
        None => Err(cannot(
            "statement_timeout",
            text,
            "milliseconds, or 5s, 2min, 1h",
        )),
    }
}

pub(super) fn unknown(name: &str) -> PgError {
    let message = format!("there is no setting {name:?}");
    PgError::error("42704", message).hint("docs/sql.md says what can be set")
}

fn cannot(name: &str, value: &str, hint: &'static str) -> PgError {
    PgError::error("22023", format!("{name} cannot be {value:?}")).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_takes_effect_or_is_the_case_or_is_refused() {
        let mut settings = Settings::new("ada");
        for (name, value) in [
            ("extra_float_digits", "3"),
            ("datestyle", "ISO"),
            ("client_encoding", "utf-8"),
            ("client_encoding", "UTF8"),
            ("standard_conforming_strings", "on"),
            ("standard_conforming_strings", "true"),
            ("timezone", "Etc/UTC"),
            ("search_path", "\"$user\", public"),
            ("statement_timeout", "5s"),
            ("tributary.consistency", "stale"),
            ("application_name", "x\ny"),
        ] {
            settings
                .set(name, value)
                .unwrap_or_else(|error| panic!("{name} {value}: {error}"));
        }
        assert_eq!(settings.statement_timeout, Duration::from_secs(5));
        assert_eq!(settings.session.consistency, Consistency::Stale);
        assert_eq!(settings.show("application_name").unwrap(), "xy");
        for (name, value, code) in [
            ("timezone", "Europe/Berlin", "22023"),
            ("datestyle", "German", "22023"),
            ("client_encoding", "LATIN1", "22023"),
            ("standard_conforming_strings", "off", "22023"),
            ("search_path", "secret", "22023"),
            ("statement_timeout", "soon", "22023"),
            ("datafusion.execution.batch_size", "7", "42704"),
        ] {
            assert_eq!(
                settings.set(name, value).unwrap_err().code,
                code,
                "{name} {value}"
            );
        }
        settings.reset(None).unwrap();
        assert_eq!(settings, Settings::new("ada"));
    }

    #[test]
    fn a_login_is_told_how_things_are() {
        let mut settings = Settings::new("ada");
        settings.wish("TimeZone", "Europe/Berlin");
        settings.wish("application_name", "psql");
        let told = settings.told();
        for (name, value) in [
            ("TimeZone", "UTC"),
            ("application_name", "psql"),
            ("client_encoding", "UTF8"),
            ("session_authorization", "ada"),
        ] {
            assert!(
                told.contains(&(name, value.to_owned())),
                "{name} in {told:?}"
            );
        }
        assert_eq!(told.len(), TOLD.len() + 2);
    }
}
