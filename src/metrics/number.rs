//! Numbers as Python's `prometheus_client` writes them, so that a page does not change when a
//! program moves over.

use std::fmt::Write;

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
    } else if value.fract() == 0.0 && value.abs() < 1e6 {
        // By far the most frequent case: counts. (-0.0 keeps its sign, as in Python.)
        let _ = write!(out, "{value:.1}");
    } else {
        format_general(value, out);
    }
}

fn format_general(value: f64, out: &mut String) {
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |rest| ("-", rest));
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    out.push_str(sign);
    if value >= 1e6 && exponent < 16 {
        // Python prints such a number in full; prometheus_client then moves its point.
        push_mantissa(&digits, out);
        let _ = write!(out, "e+0{exponent}");
    } else if !(-4..16).contains(&exponent) {
        push_mantissa(&digits, out);
        let sign = if exponent < 0 { '-' } else { '+' };
        let _ = write!(out, "e{sign}{:02}", exponent.abs());
    } else if exponent < 0 {
        out.push_str("0.");
        (0..-exponent - 1).for_each(|_| out.push('0'));
        out.push_str(&digits);
    } else {
        let point = exponent as usize + 1;
        if digits.len() > point {
            let _ = write!(out, "{}.{}", &digits[..point], &digits[point..]);
        } else {
            let _ = write!(out, "{digits:0<point$}.0");
        }
    }
}

fn push_mantissa(digits: &str, out: &mut String) {
    let (first, rest) = digits.split_at(1);
    out.push_str(first);
    if !rest.is_empty() {
        let _ = write!(out, ".{rest}");
    }
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
            (0.000_01, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (123_456.0, "123456.0"),
            (123_456.75, "123456.75"),
            (1_234_567.0, "1.234567e+06"),
            (1_234_567.25, "1.23456725e+06"),
            (-1_234_567.0, "-1234567.0"),
            (1e10, "1e+010"),
            (1e15, "1e+015"),
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
}
