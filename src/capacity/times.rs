//! Moments in traces: seconds, or a date with a time.

/// Microseconds of a second.
const SECOND: i64 = 1_000_000;

/// The moment that `text` names, in microseconds: since the trace's own zero if it is a number of
/// seconds, since 1970 if it is a date (`2023-11-16 18:15:46.6805900`, with `T` and an offset or
/// without). `None` for anything else.
pub(super) fn moment(text: &str) -> Option<i64> {
    let text = text.trim();
    if let Ok(seconds) = text.parse::<f64>() {
        let micros = seconds * SECOND as f64;
        // Beyond that it is no number of microseconds in 64 bits.
        return (micros.abs() < 9e18).then_some(micros.round() as i64);
    }
    let (date, time) = text.split_once([' ', 'T'])?;
    let [year, month, day] = numbers(date, '-')?;
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let (time, offset) = match time.find(['Z', '+', '-']) {
        Some(at) => (&time[..at], offset_seconds(&time[at..])?),
        None => (time, 0),
    };
    let (clock, fraction) = time.split_once('.').unwrap_or((time, ""));
    let [hour, minute, second] = numbers(clock, ':')?;
    if hour > 23 || minute > 59 || second > 60 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let fraction: i64 = format!("{fraction:0<6}").get(..6)?.parse().ok()?;
    let seconds = days(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second - offset;
    Some(seconds * SECOND + fraction)
}

/// Three numbers that are not negative.
fn numbers(text: &str, between: char) -> Option<[i64; 3]> {
    let mut parts = text.split(between).map(|part| part.parse::<u32>().ok().map(i64::from));
    let numbers = [parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some(numbers)
}

/// Seconds that a clock of this offset (`Z`, `+02:00`, `-0530`, `+00`) is ahead.
fn offset_seconds(text: &str) -> Option<i64> {
    if text == "Z" {
        return Some(0);
    }
    let sign = if text.starts_with('-') { -1 } else { 1 };
    let digits: String = text[1..].chars().filter(|c| *c != ':').collect();
    let number =
        |part: Option<&str>| part.map_or(Some(0), |part| if part.is_empty() { Some(0) } else { part.parse::<i64>().ok() });
    let (hours, minutes) = (digits.get(..2)?.parse::<i64>().ok()?, number(digits.get(2..))?);
    (hours <= 14 && minutes <= 59).then_some(sign * (hours * 3_600 + minutes * 60))
}

/// Days from 1970-01-01. Source: Hinnant, "chrono-Compatible Low-Level Date Algorithms",
/// `days_from_civil`.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year / 400, year % 400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_in_every_form_that_traces_have() {
        for (text, micros) in [
            ("0", 0),
            (" 5 ", 5_000_000),
            ("0.123", 123_000),
            ("-2.5", -2_500_000),
            ("1970-01-01 00:00:01", 1_000_000),
            ("2023-11-16 18:15:46.6805900", 1_700_158_546_680_590),
            ("2024-05-10 00:00:00.009930+00:00", 1_715_299_200_009_930),
            ("2024-05-10T02:00:00Z", 1_715_306_400_000_000),
            ("2024-05-10T02:00:00+02", 1_715_299_200_000_000),
            ("2024-02-29T00:00:00-0030", 1_709_166_600_000_000),
        ] {
            assert_eq!(moment(text), Some(micros), "{text}");
        }
    }

    #[test]
    fn what_is_no_moment_is_told() {
        for text in [
            "",
            "soon",
            "nan",
            "inf",
            "1e300",
            "2023-11-16",
            "2023-13-01 00:00:00",
            "2023-11-16 25:00:00",
            "2023-11-16 10:00",
            "2023-11-16 10:00:00.1x",
            "2023-11-16 10:00:00+99:00",
            "1066-10-14 09:00:00",
            "2023-11-16 10:00:00+",
        ] {
            assert_eq!(moment(text), None, "{text}");
        }
    }
}
