//! Kernels that compile and are rejected while they are recorded, and every word an author then reads.
//!
//! One file per mistake, so that the lines in the messages stay where they are.

use std::collections::BTreeSet;
use std::path::Path;

use tilekiln_dsl::comptime::KernelDef;
use tilekiln_dsl::ir::Scalar;
use tilekiln_dsl::target::{HOST, TARGETS, Target};

#[path = "../internal.rs"]
mod internal;

macro_rules! cases {
    ($($name:ident: $target:expr,)*) => {
        $(mod $name;)*
        const CASES: &[(&str, fn() -> KernelDef, &Target)] = &[$((stringify!($name), $name::rejected, $target)),*];
    };
}

/// A chip that multiplies f16 only.
const F16_CHIP: Target = Target {
    name: "f16_chip",
    summary: "made up: no bf16",
    mma_elements: &[Scalar::F16],
    ..HOST
};
const SM_90: &Target = &TARGETS[1];
const SM_120: &Target = &TARGETS[2];
const GFX1150: &Target = &TARGETS[3];

cases! {
    accumulator_out_of_range: &HOST,
    assignment_to_a_value: &HOST,
    barrier_after_thread_return: &HOST,
    barrier_before_thread_break: &HOST,
    barrier_in_function: &HOST,
    barrier_in_strided_loop: &HOST,
    barrier_in_thread_while: &HOST,
    barrier_under_thread_if: &HOST,
    bf16_product_on_an_f16_chip: &F16_CHIP,
    bitcast_sizes: &HOST,
    break_of_unrolled: &HOST,
    bulk_copy_of_a_half_warp: SM_90,
    component_out_of_range: &HOST,
    empty_shared_array: &HOST,
    endless_comptime_recursion: &HOST,
    escaped_value: &HOST,
    escaped_variable: &HOST,
    group_of_three: &HOST,
    groups_of_warps: &HOST,
    misaligned_async_copy: &HOST,
    misaligned_pack: &HOST,
    negative_into_u32: &HOST,
    odd_padding: &HOST,
    odd_ring: SM_90,
    operand_slot: GFX1150,
    recursion: &HOST,
    register_by_device_loop: &HOST,
    register_by_thread: GFX1150,
    register_out_of_range: &HOST,
    register_rank: &HOST,
    return_in_tile_fn: &HOST,
    several_at_once: &HOST,
    shared_index: &HOST,
    shared_index_in_loop: &HOST,
    shared_memory_too_large: SM_120,
    shuffle_distance: &HOST,
    step_of_zero: &HOST,
    swizzled_columns: &HOST,
    three_indices_for_two: &HOST,
    threads_2048: GFX1150,
    threads_48_with_warps: &HOST,
    threads_zero: &HOST,
    tile_position: &HOST,
    tuple_without_shape: &HOST,
    unrolled_index_reaches_too_far: &HOST,
    value_of_another_function: &HOST,
    without_a_store: &HOST,
}

#[test]
fn every_mistake_is_explained() {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../../../snapshots/rejected");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| {
        for (name, kernel, target) in CASES {
            let message = match kernel().record(target) {
                Ok(_) => panic!("{name} was accepted"),
                Err(rejected) => rejected.to_string(),
            };
            let file = format!("tests/ui/record/{name}.rs:");
            assert!(
                message.contains(&file),
                "{name} is not reported at its author's line:\n{message}"
            );
            internal::assert_absent(name, &message);
            insta::assert_snapshot!(*name, message);
        }
    });
}

#[test]
fn mistakes_of_one_kernel_are_all_reported() {
    let rejected = several_at_once::rejected().record(&HOST).expect_err("four mistakes");
    assert_eq!(rejected.diagnostics.len(), 4, "{rejected}");
}

#[test]
fn files_cases_and_snapshots_agree() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let names = |folder: &str, ending: &str| -> BTreeSet<String> {
        std::fs::read_dir(here.join(folder))
            .expect("a folder of this repository")
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter_map(|name| Some(name.strip_suffix(ending)?.to_string()))
            .filter(|name| name != "main")
            .collect()
    };
    assert!(CASES.len() >= 25, "only {} cases", CASES.len());
    let cases: BTreeSet<_> = CASES.iter().map(|(name, ..)| name.to_string()).collect();
    assert_eq!(cases, names("ui/record", ".rs"), "files in tests/ui/record");
    assert_eq!(
        cases,
        names("../snapshots/rejected", ".snap"),
        "files in snapshots/rejected"
    );
}
