//! The part of the TOML file that names priority classes, the one most worth keeping first.

use std::time::Duration;

use serde::Deserialize;

use super::file::{LINGER_MS_MAX, Located, bad, quoted, range};
use crate::batcher::Linger;
use crate::buffer::{ClassRule, Classes, Overflow};
use crate::handed::{CLASSES_MAX, Class};

const TABLE: &str = "class";
/// Characters of a name.
const NAME_BYTES_MAX: usize = 64;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ClassTable {
    name: String,
    #[serde(default = "overflow")]
    overflow: String,
    linger_ms: Option<u64>,
}

fn overflow() -> String {
    "drop_oldest".to_owned()
}

/// All of them; without any, one that drops the oldest.
pub(super) fn resolve(tables: Vec<ClassTable>) -> Result<Classes, Located> {
    let mut rules: Vec<ClassRule> = Vec::new();
    for (nth, table) in tables.into_iter().enumerate() {
        let rule = table.resolve(&rules);
        rules.push(rule.map_err(|bad| Located { nth, ..bad })?);
    }
    Ok(Classes::new(rules).unwrap_or_default())
}

/// How long readings of each class wait for others; of those that do not say, `all`.
pub(super) fn linger(all: Linger, tables: &[ClassTable]) -> Result<Linger, Located> {
    let mut linger = all;
    for (nth, table) in tables.iter().take(CLASSES_MAX).enumerate() {
        let Some(own) = table.linger_ms else { continue };
        let own = range(TABLE, "linger_ms", own, 0, LINGER_MS_MAX);
        let own = own.map_err(|bad| Located { nth, ..bad })?;
        let class = Class(u8::try_from(nth).expect("at most CLASSES_MAX"));
        linger = linger.but(class, Duration::from_millis(own));
    }
    Ok(linger)
}

/// The class of that name; the first one where none is named.
pub(super) fn named(
    classes: &Classes,
    table: &'static str,
    name: Option<&str>,
) -> Result<Class, Located> {
    let Some(name) = name else {
        return Ok(Class::default());
    };
    classes.find(name).ok_or_else(|| {
        let there_are: Vec<&str> = classes.names().collect();
        let allowed = format!("name a [[class]]; there are: {}", there_are.join(", "));
        bad(table, "class", quoted(name), allowed)
    })
}

impl ClassTable {
    fn resolve(self, before: &[ClassRule]) -> Result<ClassRule, Located> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let fits = (1..=NAME_BYTES_MAX).contains(&self.name.len()) && self.name.bytes().all(plain);
        let wrong = if before.iter().any(|rule| rule.name == self.name) {
            Some("another [[class]] has that name already".to_owned())
        } else if before.len() >= CLASSES_MAX {
            Some(format!("there may be {CLASSES_MAX} classes"))
        } else if fits {
            None
        } else {
            Some("use 1 to 64 of a-z A-Z 0-9 . _ -".to_owned())
        };
        if let Some(allowed) = wrong {
            return Err(bad(TABLE, "name", quoted(&self.name), allowed));
        }
        let overflow = match self.overflow.as_str() {
            "drop_oldest" => Overflow::DropOldest,
            "thin" => Overflow::Thin,
            "reject" => Overflow::Reject,
            other => {
                let allowed = "what happens to its readings when the buffer is full: \
                               \"drop_oldest\", \"thin\" or \"reject\"";
                return Err(bad(TABLE, "overflow", quoted(other), allowed));
            }
        };
        Ok(ClassRule {
            name: self.name,
            overflow,
        })
    }
}
