//! Numbers as Python's `prometheus_client` writes them, so that a page does not change when a
//! program moves over.

/// Appends a float: shortest digits that read back the same, Python's notation, Go's exponent
/// for large values.
///
/// ```
/// use ryot_metrics::metrics::format_number;
/// let text = |value| { let mut out = String::new(); format_number(value, &mut out); out };
/// assert_eq!(text(1.0), "1.0");
/// assert_eq!(text(1e6), "1e+06");
/// assert_eq!(text(f64::INFINITY), "+Inf");
/// ```
pub fn format_number(value: f64, out: &mut String) {
    if value.is_nan() {
        out.push_str("NaN");
    } else if value.is_infinite() {
        out.push_str(if value > 0.0 { "+Inf" } else { "-Inf" });
    } else {
        format_finite(value, true, out);
    }
}

/// Appends a count, as [`format_number`] writes it.
pub(super) fn format_count(count: u64, out: &mut String) {
    if count < 1_000_000 {
        out.push_str(itoa::Buffer::new().format(count));
        out.push_str(".0");
    } else {
        format_number(count as f64, out);
    }
}

/// Appends a float as Python's `repr` writes it.
pub(super) fn format_python(value: f64, out: &mut String) {
    if value.is_nan() {
        out.push_str("nan");
    } else if value.is_infinite() {
        out.push_str(if value > 0.0 { "inf" } else { "-inf" });
    } else {
        format_finite(value, false, out);
    }
}

fn format_finite(value: f64, go: bool, out: &mut String) {
    if value.is_sign_negative() {
        out.push('-');
    }
    let size = value.abs();
    if size < 1e6 && size.fract() == 0.0 {
        // By far the most frequent case: counts.
        format_count(size as u64, out);
        return;
    }
    let mut buffer = [0; 24];
    let (len, exponent) = digits_of(size, &mut buffer);
    let digits = str::from_utf8(&buffer[..len]).unwrap_or_default();
    // Python prints in full up to 1e16; prometheus_client then moves the point, as Go does.
    if !(-4..16).contains(&exponent) || (go && value >= 1e6) {
        push_scientific(digits, exponent, out);
    } else {
        push_plain(digits, exponent, out);
    }
}

/// The shortest digits of a positive number, without point and outer zeros, and the power of ten
/// of the first.
fn digits_of(size: f64, digits: &mut [u8; 24]) -> (usize, i32) {
    let mut buffer = ryu::Buffer::new();
    let text = buffer.format_finite(size);
    let (mantissa, power) = text.split_once('e').unwrap_or((text, "0"));
    let point = mantissa.find('.').unwrap_or(mantissa.len()) as i32;
    let zeros = mantissa.bytes().take_while(|&c| c == b'0' || c == b'.').count() as i32;
    let mut len = 0;
    for c in mantissa.bytes().skip(zeros as usize).filter(|&c| c != b'.') {
        digits[len] = c;
        len += 1;
    }
    while len > 1 && digits[len - 1] == b'0' {
        len -= 1;
    }
    // The point of `0.0…` stands before the first digit, and is one of the skipped characters.
    let first = if zeros > point { point - zeros } else { point - 1 };
    (len, first + power.parse::<i32>().unwrap_or(0))
}

fn push_scientific(digits: &str, exponent: i32, out: &mut String) {
    let (first, rest) = digits.split_at(1);
    out.push_str(first);
    if !rest.is_empty() {
        out.push('.');
        out.push_str(rest);
    }
    out.push_str(if exponent < 0 { "e-" } else { "e+" });
    if exponent.abs() < 10 {
        out.push('0');
    }
    out.push_str(itoa::Buffer::new().format(exponent.abs()));
}

fn push_plain(digits: &str, exponent: i32, out: &mut String) {
    if exponent < 0 {
        out.push_str("0.");
        (exponent + 1..0).for_each(|_| out.push('0'));
        out.push_str(digits);
        return;
    }
    let point = exponent as usize + 1;
    out.push_str(&digits[..point.min(digits.len())]);
    (digits.len()..point).for_each(|_| out.push('0'));
    out.push('.');
    out.push_str(digits.get(point..).filter(|rest| !rest.is_empty()).unwrap_or("0"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_look_as_in_prometheus_client() {
        let table = [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (0.1, "0.1"),
            (0.0001, "0.0001"),
            (0.05, "0.05"),
            (-0.012_5, "-0.0125"),
            (0.3, "0.3"),
            (5e-324, "5e-324"),
            (-1e-10, "-1e-10"),
            (-1e15, "-1000000000000000.0"),
            (-1e16, "-1e+16"),
            (0.000_01, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (123_456.0, "123456.0"),
            (123_456.75, "123456.75"),
            (1_234_567.0, "1.234567e+06"),
            (1_234_567.25, "1.23456725e+06"),
            (-1_234_567.0, "-1234567.0"),
            (1e10, "1e+10"),
            (1e15, "1e+15"),
            (1e16, "1e+16"),
            (1.797e308, "1.797e+308"),
            (f64::NEG_INFINITY, "-Inf"),
        ];
        for (value, expected) in table {
            let mut out = String::new();
            format_number(value, &mut out);
            assert_eq!(out, expected);
        }
    }

    #[test]
    fn python_moves_no_point() {
        for (value, expected) in [(1.5e9, "1500000000.0"), (1e16, "1e+16"), (f64::NAN, "nan")] {
            let mut out = String::new();
            format_python(value, &mut out);
            assert_eq!(out, expected);
        }
    }
}
