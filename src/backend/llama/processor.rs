//! Whether this machine's processor has the instructions that llama.cpp was compiled for.
//!
//! It is compiled for the processor of the machine that builds it. Elsewhere it might end the process
//! with an illegal instruction, so that is asked before it computes. Unsafe is allowed for asking what
//! it was compiled for. Must not know: models.
#![allow(unsafe_code)]

/// The instructions that llama.cpp would use and this processor lacks.
#[cfg(target_arch = "x86_64")]
pub(super) fn lacking() -> Vec<&'static str> {
    use std::arch::is_x86_feature_detected as has;

    use llama_cpp_sys_2 as sys;

    // SAFETY: each returns a constant.
    let needed = unsafe {
        [
            ("AVX", sys::ggml_cpu_has_avx(), has!("avx")),
            ("F16C", sys::ggml_cpu_has_f16c(), has!("f16c")),
            ("FMA", sys::ggml_cpu_has_fma(), has!("fma")),
            ("BMI2", sys::ggml_cpu_has_bmi2(), has!("bmi2")),
            ("AVX2", sys::ggml_cpu_has_avx2(), has!("avx2")),
            ("AVX-VNNI", sys::ggml_cpu_has_avx_vnni(), has!("avxvnni")),
            ("AVX-512", sys::ggml_cpu_has_avx512(), has_avx512()),
            ("AVX-512-VBMI", sys::ggml_cpu_has_avx512_vbmi(), has!("avx512vbmi")),
            ("AVX-512-VNNI", sys::ggml_cpu_has_avx512_vnni(), has!("avx512vnni")),
            ("AVX-512-BF16", sys::ggml_cpu_has_avx512_bf16(), has!("avx512bf16")),
        ]
    };
    missing(&needed)
}

/// Other architectures are compiled for their oldest processors.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn lacking() -> Vec<&'static str> {
    Vec::new()
}

/// What ggml takes for granted by that name.
#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    use std::arch::is_x86_feature_detected as has;
    has!("avx512f") && has!("avx512cd") && has!("avx512vl") && has!("avx512dq") && has!("avx512bw")
}

/// The names of those that were compiled in and are not there.
#[cfg(target_arch = "x86_64")]
fn missing(needed: &[(&'static str, i32, bool)]) -> Vec<&'static str> {
    let missing = needed.iter().filter(|(_, compiled, there)| *compiled != 0 && !there);
    missing.map(|(name, ..)| *name).collect()
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn what_was_compiled_in_and_is_not_there_is_named() {
        let needed = [("AVX2", 1, true), ("AVX-512", 1, false), ("AVX-512-BF16", 0, false)];
        assert_eq!(missing(&needed), ["AVX-512"]);
    }

    #[test]
    fn this_machine_can_run_what_it_built() {
        assert!(lacking().is_empty());
    }
}
