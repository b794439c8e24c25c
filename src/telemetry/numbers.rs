//! Numbers in the form that people read.

/// A number and a noun, singular or plural.
pub fn some(n: u64, what: &str) -> String {
    let plural = match n {
        1 => "",
        _ if what.ends_with("sh") || what.ends_with("ch") => "es",
        _ => "s",
    };
    format!("{} {what}{plural}", count(n))
}

/// The verb for a number of things: `one` for one, `many` for any other number.
pub const fn verb(n: u64, one: &'static str, many: &'static str) -> &'static str {
    if n == 1 { one } else { many }
}

/// A number, a noun, and the verb phrase for one or for many.
pub fn those(n: u64, what: &str, one: &'static str, many: &'static str) -> String {
    format!("{} {}", some(n, what), verb(n, one, many))
}

/// A number with a comma before each group of three digits.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut told = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            told.push(',');
        }
        told.push(digit);
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_people_read_them() {
        for (n, told) in [(0, "0"), (999, "999"), (1000, "1,000"), (12_345_678, "12,345,678")] {
            assert_eq!(count(n), told);
        }
        assert_eq!((some(1, "outage"), some(1200, "outage")), ("1 outage".into(), "1,200 outages".into()));
        assert_eq!(some(0, "crash"), "0 crashes");
        assert_eq!([0, 1, 2].map(|n| verb(n, "is", "are")), ["are", "is", "are"]);
    }
}
