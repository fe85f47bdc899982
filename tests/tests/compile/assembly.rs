//! What has to be, and must not be, in the assembly of a gfx11 kernel.

use tilekiln_codegen::Generated;

/// A helper or builtin in the text, and the instruction that it is there for.
const EXPECTED: &[(&str, &str)] = &[
    ("__builtin_amdgcn_wmma_f32_16x16x16_f16_w32", "v_wmma_f32_16x16x16_f16"),
    (
        "__builtin_amdgcn_wmma_f32_16x16x16_bf16_w32",
        "v_wmma_f32_16x16x16_bf16",
    ),
    ("__builtin_amdgcn_wmma_i32_16x16x16_iu8_w32", "v_wmma_i32_16x16x16_iu8"),
    ("__builtin_amdgcn_sudot4", "v_dot4_i32_iu8"),
];

/// The helper that exchanges between lanes, and the two instructions of which it becomes one or the other: lanes 16 apart
/// need the second.
const EXCHANGE: (&str, [&str; 2]) = ("__builtin_amdgcn_update_dpp", ["row_xmask", "ds_swizzle_b32"]);

/// Kernel families that stand or fall with an instruction, however their text spells it.
const FAMILIES: &[(&str, &str)] = &[
    ("matmul_f16", "v_wmma_f32_16x16x16_f16"),
    ("matmul_bf16", "v_wmma_f32_16x16x16_bf16"),
    ("flash_decode", "v_wmma_f32_16x16x16"),
    ("flash_prefill", "v_wmma_f32_16x16x16"),
    ("row_product", "v_dot4_i32_iu8"),
    ("packed_product", "v_wmma_i32_16x16x16_iu8"),
    ("packed_gated", "v_wmma_i32_16x16x16_iu8"),
];

/// What is wrong with the assembly of a text.
pub fn problems(source: &Generated, assembly: &str) -> Vec<String> {
    let by_text = EXPECTED.iter().filter(|(spelling, _)| source.text.contains(spelling));
    let by_family = FAMILIES.iter().filter(|(family, _)| source.symbol.starts_with(family));
    let mut problems: Vec<String> = by_text
        .chain(by_family)
        .filter(|(_, instruction)| !assembly.contains(instruction))
        .map(|(why, instruction)| format!("no {instruction} in the assembly ({why})"))
        .collect();
    let (helper, either) = EXCHANGE;
    if source.text.contains(helper) && !either.iter().any(|instruction| assembly.contains(instruction)) {
        problems.push(format!("no {} in the assembly ({helper})", either.join(" or ")));
    }
    for line in exchanges_in_branches(assembly) {
        problems.push(format!(
            "lanes that are switched off are read: `{line}` stands in a divergent branch"
        ));
    }
    problems
}

/// `v_permlane` instructions between an instruction that switches lanes off and the label where they are on again.
///
/// LLVM before 21 moves them there, and the lane they read from may be off.
pub fn exchanges_in_branches(assembly: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut open: Vec<&str> = Vec::new();
    let mut is_masked = false;
    for line in assembly.lines() {
        let line = line.split(';').next().unwrap_or_default().trim();
        let (instruction, operands) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        if let Some(label) = line.strip_suffix(':') {
            open.retain(|end| *end != label);
        } else if instruction.contains("saveexec") || instruction.starts_with("v_cmpx") {
            is_masked = true;
        } else if instruction == "s_cbranch_execz" && is_masked {
            open.push(operands.trim());
            is_masked = false;
        } else if instruction.starts_with("v_permlane") && (is_masked || !open.is_empty()) {
            found.push(line);
        } else if is_masked && restores_lanes(instruction, operands) {
            is_masked = false;
        }
    }
    found
}

fn restores_lanes(instruction: &str, operands: &str) -> bool {
    matches!(instruction, "s_or_b32" | "s_mov_b32") && operands.trim_start().starts_with("exec_lo")
}

#[test]
fn branches_are_followed_to_their_labels() {
    let assembly = "\
moved:
\tv_permlanex16_b32 v0, v1, s0, s1
\ts_and_saveexec_b32 s2, vcc_lo ; a comment
\ts_cbranch_execz .LBB0_2
; %bb.1:
\tv_permlane16_b32 v2, v1, s0, s1
\ts_and_saveexec_b32 s3, vcc_lo
\ts_cbranch_execz .LBB0_1
\tv_permlanex16_b32 v3, v1, s0, s1
.LBB0_1:
\tv_mov_b32_e32 v1, v2
.LBB0_2:
\ts_or_b32 exec_lo, exec_lo, s2
\tv_permlanex16_b32 v4, v1, s0, s1
\tv_cmpx_eq_u32_e32 0, v0
\tv_permlanex16_b32 v5, v1, s0, s1
\ts_mov_b32 exec_lo, s3
\tv_permlanex16_b32 v6, v1, s0, s1
";
    let found: Vec<_> = exchanges_in_branches(assembly)
        .iter()
        .map(|line| line.split([' ', ',']).nth(1).unwrap_or_default())
        .collect();
    assert_eq!(found, ["v2", "v3", "v5"]);
}
