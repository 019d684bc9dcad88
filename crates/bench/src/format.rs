//! Numbers for people.

/// 1234567.8 as "1,234,568".
pub(crate) fn thousands(number: f64) -> String {
    let digits = format!("{:.0}", number.max(0.0));
    let mut grouped = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// Microseconds with three digits that matter: "93.1 µs", "882 µs", "7.31 ms", "18.5 ms", "1.20 s".
pub(crate) fn latency(us: f64) -> String {
    let (number, unit) = match us {
        us if us < 999.5 => (us, "µs"),
        us if us < 999_500.0 => (us / 1e3, "ms"),
        us => (us / 1e6, "s"),
    };
    let decimals = match number {
        number if number < 9.995 => 2,
        number if number < 99.95 => 1,
        _ => 0,
    };
    format!("{number:.decimals$} {unit}")
}

/// "2.53×".
pub(crate) fn ratio(ratio: f64) -> String {
    if ratio < 99.95 { format!("{ratio:.2}×") } else { format!("{}×", thousands(ratio)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(
            ["0", "999", "1,000", "1,234,568"],
            [0.0, 999.4, 999.5, 1_234_567.8].map(thousands).each_ref().map(String::as_str)
        );
        let latencies = [0.5, 93.14, 882.0, 999.6, 7_312.0, 18_470.0, 1_204_000.0].map(latency);
        assert_eq!(
            latencies.each_ref().map(String::as_str),
            ["0.50 µs", "93.1 µs", "882 µs", "1.00 ms", "7.31 ms", "18.5 ms", "1.20 s"]
        );
        assert_eq!(["0.45×", "120×"], [0.449, 120.4].map(ratio).each_ref().map(String::as_str));
    }
}
