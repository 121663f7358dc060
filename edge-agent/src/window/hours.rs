//! Hours of the day at which the backlog may be sent.

use shared::id::TimeNs;

const DAY_MINUTES: usize = 24 * 60;
const WORDS: usize = DAY_MINUTES.div_ceil(64);
const MINUTE_NS: i64 = 60_000_000_000;

/// A set of minutes of the day, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hours {
    minutes: [u64; WORDS],
}

impl Hours {
    pub const ALWAYS: Hours = Hours {
        minutes: [u64::MAX; WORDS],
    };

    /// Reads spans like `22:00-06:00`: from the first minute until before the second, over midnight
    /// if that is earlier. No span: always.
    ///
    /// # Errors
    /// The span that is none.
    pub fn parse(spans: &[String]) -> Result<Hours, &str> {
        if spans.is_empty() {
            return Ok(Hours::ALWAYS);
        }
        let mut hours = Hours {
            minutes: [0; WORDS],
        };
        for span in spans {
            let (from, to) = parse_span(span).ok_or(span.as_str())?;
            let mut minute = from;
            loop {
                hours.minutes[minute / 64] |= 1 << (minute % 64);
                minute = (minute + 1) % DAY_MINUTES;
                if minute == to {
                    break;
                }
            }
        }
        Ok(hours)
    }

    pub fn contains(&self, wall: TimeNs) -> bool {
        let minute = wall
            .0
            .div_euclid(MINUTE_NS)
            .rem_euclid(i64::try_from(DAY_MINUTES).expect("a day has few minutes"));
        let minute = usize::try_from(minute).expect("a remainder is not negative");
        (self.minutes[minute / 64] >> (minute % 64)) & 1 == 1
    }
}

/// The first minute, and the one before which it ends.
fn parse_span(text: &str) -> Option<(usize, usize)> {
    let (from, to) = text.split_once('-')?;
    let (from, to) = (parse_minute(from.trim())?, parse_minute(to.trim())?);
    (from != to && from < DAY_MINUTES).then_some((from, to % DAY_MINUTES))
}

/// `HH:MM` up to `24:00`.
fn parse_minute(text: &str) -> Option<usize> {
    let (hour, minute) = text.split_once(':')?;
    let number = |digits: &str| {
        let two = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
        two.then(|| digits.parse::<usize>().ok()).flatten()
    };
    let (hour, minute) = (number(hour)?, number(minute)?);
    let at = hour * 60 + minute;
    (minute < 60 && at <= DAY_MINUTES).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hours(spans: &[&str]) -> Result<Hours, String> {
        let spans: Vec<String> = spans.iter().map(|&span| span.to_owned()).collect();
        Hours::parse(&spans).map_err(str::to_owned)
    }

    fn at(hour: i64, minute: i64) -> TimeNs {
        // Some day, and one before 1970.
        TimeNs((20_000 * 1_440 + hour * 60 + minute) * MINUTE_NS)
    }

    #[test]
    fn spans_go_over_midnight_and_add_up() {
        let night = hours(&["22:00-06:00", "12:30-13:00"]).unwrap();
        for (hour, minute, inside) in [
            (21, 59, false),
            (22, 0, true),
            (0, 0, true),
            (5, 59, true),
            (6, 0, false),
            (12, 29, false),
            (12, 30, true),
            (13, 0, false),
        ] {
            assert_eq!(night.contains(at(hour, minute)), inside, "{hour}:{minute}");
            let before_1970 = TimeNs(at(hour, minute).0 - 30_000 * 1_440 * MINUTE_NS);
            assert_eq!(night.contains(before_1970), inside, "{hour}:{minute}");
        }
    }

    #[test]
    fn no_span_and_a_whole_day_are_always() {
        assert_eq!(hours(&[]).unwrap(), Hours::ALWAYS);
        for minute in 0..1_440 {
            assert!(hours(&["00:00-24:00"]).unwrap().contains(at(0, minute)));
        }
    }

    #[test]
    fn what_is_no_span_is_told() {
        for bad in [
            "",
            "22:00",
            "22-06",
            "22:00-22:00",
            "24:00-06:00",
            "23:60-24:00",
            "1:00-02:00",
            "01:00-25:00",
            "+1:00-02:00",
        ] {
            assert_eq!(hours(&["01:00-02:00", bad]), Err(bad.to_owned()));
        }
    }
}
