//! Numbers as classes: a label never carries a raw number.

/// All classes of a batch's size.
pub(super) const BATCH_SIZES: [&str; 7] = ["", "1", "2-4", "5-8", "9-16", "17-32", "33+"];

/// All classes of a prompt's length.
pub(super) const PROMPT_SIZES: [&str; 6] = ["", "tiny", "small", "medium", "large", "xlarge"];

/// The class of a batch's size: `1`, `2-4`, `5-8`, `9-16`, `17-32`, `33+`; empty for 0, unknown.
///
/// ```
/// use ryot_metrics::llm::batch_size_class;
/// assert_eq!(batch_size_class(8), "5-8");
/// ```
pub const fn batch_size_class(sequences: usize) -> &'static str {
    BATCH_SIZES[batch_size_index(sequences)]
}

/// Where the class of a batch's size stands among them.
pub(super) const fn batch_size_index(sequences: usize) -> usize {
    match sequences {
        0 => 0,
        1 => 1,
        2..=4 => 2,
        5..=8 => 3,
        9..=16 => 4,
        17..=32 => 5,
        33.. => 6,
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
    PROMPT_SIZES[prompt_size_index(tokens)]
}

/// Where the class of a prompt's length stands among them.
pub(super) const fn prompt_size_index(tokens: Option<usize>) -> usize {
    match tokens {
        None => 0,
        Some(0..50) => 1,
        Some(50..500) => 2,
        Some(500..2_000) => 3,
        Some(2_000..10_000) => 4,
        Some(10_000..) => 5,
    }
}

/// The class of a context's length in tokens: the next of `512`, `1024`, `2048`, `4096`, `8192`,
/// `16384`, and `16384+` past them; empty for 0, unknown.
///
/// ```
/// use ryot_metrics::llm::context_length_class;
/// assert_eq!(context_length_class(3_000), "4096");
/// assert_eq!(context_length_class(100_000), "16384+");
/// ```
pub const fn context_length_class(tokens: usize) -> &'static str {
    match tokens {
        0 => "",
        1..=512 => "512",
        513..=1_024 => "1024",
        1_025..=2_048 => "2048",
        2_049..=4_096 => "4096",
        4_097..=8_192 => "8192",
        8_193..=16_384 => "16384",
        16_385.. => "16384+",
    }
}
