//! Numbers as classes: a label never carries a raw number.

/// The class of a batch's size: `1`, `2-4`, `5-8`, `9-16`, `17-32`, `33+`; empty for 0, unknown.
///
/// ```
/// use ryot_metrics::llm::batch_size_class;
/// assert_eq!(batch_size_class(8), "5-8");
/// ```
pub const fn batch_size_class(sequences: usize) -> &'static str {
    match sequences {
        0 => "",
        1 => "1",
        2..=4 => "2-4",
        5..=8 => "5-8",
        9..=16 => "9-16",
        17..=32 => "17-32",
        33.. => "33+",
    }
}

/// The class of a prompt's length in tokens: `tiny` < 50, `small` < 500, `medium` < 2,000,
/// `large` < 10,000, `xlarge`; empty if it is unknown.
///
/// ```
/// use ryot_metrics::llm::prompt_size_class;
/// assert_eq!(prompt_size_class(Some(500)), "medium");
/// assert_eq!(prompt_size_class(None), "");
/// ```
pub const fn prompt_size_class(tokens: Option<usize>) -> &'static str {
    match tokens {
        None => "",
        Some(0..50) => "tiny",
        Some(50..500) => "small",
        Some(500..2_000) => "medium",
        Some(2_000..10_000) => "large",
        Some(10_000..) => "xlarge",
    }
}
