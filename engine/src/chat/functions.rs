//! What chat templates expect of their language beyond Jinja itself.

use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};

/// The reason with which a template refuses a conversation.
#[derive(Debug)]
pub(super) struct Raised(pub String);

impl std::fmt::Display for Raised {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

/// `raise_exception(reason)`.
pub(super) fn raise_exception(reason: Rest<Value>) -> Result<Value, Error> {
    let reason = reason.first().map_or_else(String::new, Value::to_string);
    Err(Error::new(ErrorKind::InvalidOperation, reason.clone()).with_source(Raised(reason)))
}

/// Deepest value that `tojson` writes.
const DEEPEST: usize = 96;

/// `tojson(indent)`: JSON as Python's `json.dumps` writes it, nothing escaped for HTML.
pub(super) fn to_json(state: &State, value: &Value, indent: Option<usize>, options: Kwargs) -> Result<String, Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => options.get::<Option<usize>>("indent")?,
    };
    // Templates pass them as to Python; the first is how text is written here anyway, the order of keys is fixed.
    let _ = options.get::<Option<Value>>("ensure_ascii")?;
    let _ = options.get::<Option<Value>>("sort_keys")?;
    options.assert_all_used()?;
    let mut out = String::new();
    write_json(state, value, indent.map(|indent| indent.min(16)), 0, &mut out)?;
    Ok(out)
}

fn write_json(
    state: &State,
    value: &Value,
    indent: Option<usize>,
    depth: usize,
    out: &mut String,
) -> Result<(), Error> {
    let refuse = |reason: &str| Error::new(ErrorKind::InvalidOperation, reason.to_owned());
    if depth > DEEPEST {
        return Err(refuse("a value is nested too deep to be written as JSON"));
    }
    let before = out.len();
    let line = |out: &mut String, depth: usize| {
        if let Some(indent) = indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent * depth));
        }
    };
    let comma = if indent.is_some() { "," } else { ", " };
    match value.kind() {
        ValueKind::Undefined | ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => out.push_str(&value.to_string()),
        ValueKind::Map => {
            out.push('{');
            let mut empty = true;
            for key in value.try_iter()? {
                if !empty {
                    out.push_str(comma);
                }
                empty = false;
                line(out, depth + 1);
                write_string(&key.to_string(), out);
                out.push_str(": ");
                write_json(state, &value.get_item(&key)?, indent, depth + 1, out)?;
            }
            if !empty {
                line(out, depth);
            }
            out.push('}');
        }
        ValueKind::Seq | ValueKind::Iterable => {
            out.push('[');
            let mut empty = true;
            for item in value.try_iter()? {
                if !empty {
                    out.push_str(comma);
                }
                empty = false;
                line(out, depth + 1);
                write_json(state, &item, indent, depth + 1, out)?;
            }
            if !empty {
                line(out, depth);
            }
            out.push(']');
        }
        _ => match value.as_str() {
            Some(text) => write_string(text, out),
            None => return Err(refuse("a value cannot be written as JSON")),
        },
    }
    // Shared values are written once for each place where they stand: the same fuel as for other work.
    state.consume_fuel(1 + (out.len() - before) as u64 / 64)
}

fn write_string(text: &str, out: &mut String) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            control if (control as u32) < 0x20 => out.push_str(&format!("\\u{:04x}", control as u32)),
            other => out.push(other),
        }
    }
    out.push('"');
}

/// `strftime_now(format)`: the time in UTC.
pub(super) fn strftime_now(format: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    strftime(format, now.map_or(0, |since| since.as_secs()))
}

const DAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// A time in seconds since 1970 (UTC), written as C's `strftime` does in its own locale. Unknown conversions stay.
fn strftime(format: &str, seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let weekday = ((days + 4) % 7) as usize;
    // Years begin in March here, so that the leap day is the last.
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12; // 0 is January
    let year = year_of_era + era * 400 + u64::from(month < 2);
    let leap = (year.is_multiple_of(4) && !year.is_multiple_of(100)) || year.is_multiple_of(400);
    let since_january = match month < 2 {
        true => day_of_year - 306,
        false => day_of_year + 59 + u64::from(leap),
    };
    let twelve = (hour + 11) % 12 + 1;

    let mut out = String::new();
    let mut rest = format.chars();
    while let Some(character) = rest.next() {
        if character != '%' {
            out.push(character);
            continue;
        }
        let mut conversion = rest.next();
        let plain = conversion == Some('-');
        if plain {
            conversion = rest.next();
        }
        let number = |value: u64, width: usize| match plain {
            true => value.to_string(),
            false => format!("{value:0width$}"),
        };
        out.push_str(&match conversion {
            Some('Y') => year.to_string(),
            Some('y') => number(year % 100, 2),
            Some('m') => number(month + 1, 2),
            Some('d') => number(day, 2),
            Some('e') if plain => day.to_string(),
            Some('e') => format!("{day:2}"),
            Some('j') => number(since_january + 1, 3),
            Some('H') => number(hour, 2),
            Some('I') => number(twelve, 2),
            Some('M') => number(minute, 2),
            Some('S') => number(second, 2),
            Some('p') => if hour < 12 { "AM" } else { "PM" }.to_owned(),
            Some('A') => DAYS[weekday].to_owned(),
            Some('a') => DAYS[weekday][..3].to_owned(),
            Some('B') => MONTHS[month as usize].to_owned(),
            Some('b' | 'h') => MONTHS[month as usize][..3].to_owned(),
            Some('F') => format!("{year}-{:02}-{day:02}", month + 1),
            Some('T') => format!("{hour:02}:{minute:02}:{second:02}"),
            Some('Z') => "UTC".to_owned(),
            Some('z') => "+0000".to_owned(),
            Some('%') => "%".to_owned(),
            Some(other) => format!("%{}{other}", if plain { "-" } else { "" }),
            None => "%".to_owned(),
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_c_does() {
        let table = [
            (0, "%Y-%m-%d %H:%M:%S %A", "1970-01-01 00:00:00 Thursday"),
            (951_782_399, "%d %B %Y, %j, %a", "28 February 2000, 059, Mon"),
            (951_782_400, "%F %T %j", "2000-02-29 00:00:00 060"),
            (951_868_800, "%-d %b %y %j", "1 Mar 00 061"),
            (978_307_199, "%j %I:%M %p", "366 11:59 PM"),
            (4_107_542_400, "%F %A %j", "2100-03-01 Monday 060"),
            (1_795_488_397, "%e|%-m|%%|%Q|%Z|%", "24|11|%|%Q|UTC|%"),
        ];
        for (seconds, format, text) in table {
            assert_eq!(strftime(format, seconds), text, "{seconds}");
        }
    }
}
