//! attend_exact, flash_decode, flash_prefill and both kinds of flash_combine over caches that cache_write filled. These are small cases
//! of every kernel, which run under the sanitizer, too; the matrix of formats and shapes is [`crate::attention`].

use tilekiln_kernels::attention::flash::FlashShape;
use tilekiln_kernels::attention::shapes::Chosen;

use super::{Case, CaseError, Extent, Trial};
use crate::attention::expected::{Arithmetic, Errors, Expected};
use crate::attention::{Kernels, Scene, Setup};

const PAIRS: [[&str; 2]; 8] = [
    ["f16", "f16"],
    ["turbo3", "turbo3"],
    ["q8_0", "turbo4"],
    ["bf16", "q4_0"],
    ["turbo2", "bf16"],
    ["q4_0", "q8_0"],
    ["turbo4", "turbo2"],
    ["turbo4_first", "f16"],
];

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (number, pair) in PAIRS.into_iter().enumerate() {
        let head_dim = [64, 128, 256, 32][number % 4];
        let of_pair = [
            format!("k={}", pair[0]),
            format!("v={}", pair[1]),
            format!("head_dim={head_dim}"),
        ];
        let with = |more: &[&str]| -> Vec<String> {
            let more = more.iter().map(|&setting| setting.to_owned());
            of_pair.iter().cloned().chain(more).collect()
        };
        let mut add = |kernel, settings: Vec<String>, shape: [usize; 3]| {
            let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
            cases.push(Case::new(kernel, &settings, move |trial| {
                check(trial, kernel, pair, head_dim, shape)
            }));
        };
        let tiles = 1 + number % 2;
        add("attend_exact", with(&[]), [1, 1, 1]);
        let tiled = format!("tiles={tiles}");
        add("flash_decode", with(&[&tiled, "teams=1", "pages=2"]), [tiles, 1, 2]);
        add("flash_prefill", with(&[&tiled, "teams=1", "pages=1"]), [tiles, 1, 1]);
    }
    for (setting, pair) in [("rotated=false", ["f16", "f16"]), ("rotated=true", ["f16", "turbo3"])] {
        cases.push(Case::new("flash_combine", &[setting], move |trial| {
            check(trial, "flash_combine", pair, 128, [1, 1, 2])
        }));
        cases.push(Case::new("flash_combine_int8", &[setting], move |trial| {
            check(trial, "flash_combine_int8", pair, 128, [1, 1, 2])
        }));
    }
    cases
}

fn check(
    trial: &mut Trial<'_>,
    kernel: &'static str,
    pair: [&'static str; 2],
    head_dim: usize,
    [tiles, teams, pages]: [usize; 3],
) -> Result<(), CaseError> {
    let target = trial.target().clone();
    let kernels = Kernels::new(trial.device(), &target);
    let (gqa, tokens) = (
        trial.random.integer(1..=3) as usize,
        trial.random.integer(1..=3) as usize,
    );
    let most = match trial.extent {
        Extent::Small => 70,
        Extent::Medium => 200,
        Extent::Large => 3000,
    };
    let setup = Setup {
        pair,
        head_dim,
        kv_heads: 2,
        window: (trial.random.uniform() < 0.4).then_some(37),
        lengths: vec![trial.random.odd_size(tokens + 11..=most), tokens + 2],
        most_gqa: gqa,
        most_rows: tokens,
    };
    trial.shape(format!(
        "gqa {gqa}, {tokens} tokens, keys {:?}, window {:?}",
        setup.lengths, setup.window
    ));
    let scene = Scene::new(&kernels, setup, &mut trial.random)?;
    let rows: Vec<_> = (0..2).flat_map(|slot| scene.last_rows(slot, tokens)).collect();
    let shape = FlashShape {
        head_dim,
        tiles,
        teams,
        pages,
    };
    let columns = shape.columns(target.fragments.columns());
    let chosen = Chosen {
        shape,
        columns,
        blocks: 1,
    };
    if kernel == "flash_combine_int8" {
        // the same numbers as two launches give
        let per = chosen.rows(gqa).min(tokens);
        let got = scene.decode_int8(&rows, gqa, chosen, per)?;
        let floats = scene.decode(&rows, gqa, chosen, per)?;
        let want = scene.prepare_rows(rows.len(), &floats)?;
        for (what, (got, want)) in ["words", "scales", "sums"].into_iter().zip(got.iter().zip(&want)) {
            trial.equal(&format!("{what} as of prepare_rows"), got, want);
        }
        return Ok(());
    }
    let (arithmetic, got);
    match kernel {
        "attend_exact" => {
            arithmetic = Expected::of(&scene, Arithmetic::Exact, rows.clone(), gqa)?;
            got = scene.exact(&rows, gqa, &arithmetic.exact_queries(&rows, gqa))?;
        }
        "flash_prefill" => {
            arithmetic = Expected::of(&scene, Arithmetic::Flash, rows.clone(), gqa)?;
            got = scene.prefill(&rows, gqa, chosen)?;
        }
        _ => {
            arithmetic = Expected::of(&scene, Arithmetic::Flash, rows.clone(), gqa)?;
            got = scene.decode(&rows, gqa, chosen, chosen.rows(gqa).min(tokens))?;
        }
    }
    let Errors {
        error, ratio, fault, ..
    } = arithmetic.compare(&rows, gqa, &got);
    trial.note(&format!("largest error {error:.2e}, {ratio:.4} of its bound"), &fault);
    Ok(())
}
