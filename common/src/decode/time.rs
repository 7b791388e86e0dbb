//! Times that Kubernetes accepts and jiff can't represent.

use jiff::{Timestamp, civil};

/// The representable time nearest to `text`, to the second. `None` if `text` is no time, or can be represented as it is.
///
/// Accepts the forms of RFC 3339, and those that Go writes for years outside 0 to 9999: `10000-01-01T00:00:00Z`, `-0001-12-31T14:00:00Z`. A
/// value that no calendar has (day 31 in June, second 60) becomes the largest valid one.
pub(super) fn clamped(text: &str) -> Option<Timestamp> {
    if text.parse::<Timestamp>().is_ok() {
        return None;
    }
    let mut rest = Rest(text);
    let negative = rest.skip_any("+-").is_some_and(|sign| sign == '-');
    let year: i64 = rest.digits(4, 18)?;
    let year = if negative { -year } else { year };
    rest.skip_any("-")?;
    let month: i8 = rest.digits(2, 2)?;
    rest.skip_any("-")?;
    let day: i8 = rest.digits(2, 2)?;
    rest.skip_any("Tt ")?;
    let hour: i8 = rest.digits(2, 2)?;
    rest.skip_any(":")?;
    let minute: i8 = rest.digits(2, 2)?;
    rest.skip_any(":")?;
    let second: i8 = rest.digits(2, 2)?;
    if rest.skip_any(".,").is_some() {
        rest.digits::<u128>(1, 18)?;
    }
    let offset = rest.offset()?;
    let limit = if year < 0 { Timestamp::MIN } else { Timestamp::MAX };
    let Ok(year) = i16::try_from(year) else { return Some(limit) };
    let Ok(first) = civil::Date::new(year, month.clamp(1, 12), 1) else { return Some(limit) };
    let date = civil::Date::new(year, first.month(), day.clamp(1, first.days_in_month())).ok()?;
    let time = date.at(hour.clamp(0, 23), minute.clamp(0, 59), second.clamp(0, 59), 0);
    let since_epoch = time.duration_since(civil::date(1970, 1, 1).at(0, 0, 0, 0)).as_secs() - offset;
    Some(Timestamp::from_second(since_epoch).unwrap_or(limit))
}

/// The rest of the text.
struct Rest<'a>(&'a str);

impl Rest<'_> {
    fn skip_any(&mut self, characters: &str) -> Option<char> {
        let first = self.0.chars().next().filter(|first| characters.contains(*first))?;
        self.0 = &self.0[first.len_utf8()..];
        Some(first)
    }

    fn digits<T: std::str::FromStr>(&mut self, at_least: usize, at_most: usize) -> Option<T> {
        let length = self.0.bytes().take(at_most).take_while(u8::is_ascii_digit).count();
        let (digits, rest) = self.0.split_at_checked(length).filter(|_| length >= at_least)?;
        self.0 = rest;
        digits.parse().ok()
    }

    /// The offset from UTC in seconds, at the end of the text.
    fn offset(&mut self) -> Option<i64> {
        let seconds = match self.skip_any("Zz+-") {
            Some('Z' | 'z') | None => 0,
            Some(sign) => {
                let hours: i64 = self.digits(2, 2)?;
                self.skip_any(":");
                let minutes: i64 = self.digits(2, 2)?;
                let seconds = (hours * 60 + minutes) * 60;
                if sign == '-' { -seconds } else { seconds }
            }
        };
        self.0.is_empty().then_some(seconds)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    const MAX: &str = "9999-12-30T22:00:00.999999999Z";
    const MIN: &str = "-009999-01-02T01:59:59Z";

    #[rstest]
    #[case::last_second_of_go("9999-12-31T23:59:59Z", MAX)]
    #[case::just_beyond("9999-12-30T22:00:01Z", MAX)]
    #[case::carried_beyond("9999-12-30T22:00:00-00:01", MAX)]
    #[case::carried_back("9999-12-31T23:59:59+23:59", "9999-12-30T22:00:00.999999999Z")]
    #[case::year_10000("10000-01-01T09:59:59Z", MAX)]
    #[case::long_year("999999999999999999-01-01T00:00:00Z", MAX)]
    #[case::year_before_0("-0001-12-31T14:00:00Z", "-000001-12-31T14:00:00Z")]
    #[case::long_ago("-10000-01-01T00:00:00Z", MIN)]
    #[case::first_that_is("-9999-01-01T00:00:00Z", MIN)]
    #[case::large_offset("2026-01-02T00:00:00+99:59", "2025-12-28T20:01:00Z")]
    #[case::minute_60("2026-01-01T00:60:00Z", "2026-01-01T00:59:00Z")]
    #[case::second_61("2026-12-31T23:59:61Z", "2026-12-31T23:59:59Z")]
    #[case::hour_24("2026-01-01T24:00:00Z", "2026-01-01T23:00:00Z")]
    #[case::no_such_day("2026-02-30T00:00:00Z", "2026-02-28T00:00:00Z")]
    #[case::no_such_month("2026-13-00T00:00:00Z", "2026-12-01T00:00:00Z")]
    #[case::no_zone("2026-01-01T00:00:00", "2026-01-01T00:00:00Z")]
    fn the_nearest_that_there_is(#[case] text: &str, #[case] nearest: &str) {
        let clamped = clamped(text).unwrap().to_string();
        assert_eq!(clamped, nearest);
        assert_eq!(super::clamped(&clamped), None, "what was clamped can be read");
    }

    #[rstest]
    #[case::usual("2026-01-01T00:00:00Z")]
    #[case::year_0("0000-01-01T00:00:00Z")]
    #[case::before_year_0("0000-01-01T00:00:00+10:00")]
    #[case::leap_second("2026-12-31T23:59:60Z")]
    #[case::lower_case("2026-01-01t00:00:00z")]
    #[case::micro("2026-01-01T00:00:00.000001Z")]
    #[case::none("")]
    #[case::word("tomorrow")]
    #[case::date("9999-12-31")]
    #[case::trailing("9999-12-31T23:59:59Z and more")]
    #[case::endless_year("9999999999999999999-01-01T00:00:00Z")]
    #[case::letters_of_others("９999-12-31T23:59:59Z")]
    fn left_alone(#[case] text: &str) {
        assert_eq!(clamped(text), None);
    }

    proptest! {
        #[test]
        fn any_text_is_looked_at(text in r"[-+]?[0-9]{0,20}-[0-9]{2}-[0-9]{2}[Tt ä][0-9]{2}:[0-9]{2}:[0-9]{2}([.,][0-9]{0,20})?([Zz]|[-+][0-9]{2}:?[0-9]{2})?.?") {
            if let Some(time) = clamped(&text) {
                prop_assert!(time.to_string().parse::<Timestamp>().is_ok());
            }
        }
    }
}
