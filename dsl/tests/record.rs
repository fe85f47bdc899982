//! Two kernels that use most of the language are recorded for both fragment layouts.
use tilekiln_dsl::prelude::*;
use tilekiln_dsl::target::{HOST, Target};

/// sum over the block; every thread returns the total
#[device_fn]
fn block_sum(value: Val<f32>, #[comptime] threads: usize) -> Val<f32> {
    let partial = Shared::<f32>::new(threads / 32);
    let in_warp = warp_sum(value);
    if lane_index() == 0 {
        partial[warp_index()] = in_warp;
    }
    barrier();
    let mut total = f32(0.0);
    for warp in unrolled(0..threads / 32) {
        total += partial[warp];
    }
    total
}

/// One block per row: y = x / sqrt(mean(x^2) + eps) * w
#[kernel(threads = threads)]
pub fn rms_norm<Element: Float>(
    #[shape(rows, cols)] x: In<Element>,
    #[shape(cols)] w: In<f32>,
    #[shape(rows, cols)] y: Out<Element>,
    cols: u32,
    eps: f32,
    #[comptime] threads: usize,
) where
    f32: Numeric,
{
    let row = block_index();

    /// sum of squares, one partial per thread
    let mut sum = f32(0.0);
    for col in strided(cols, threads) {
        let v = x[(row, col)].to::<f32>();
        sum += v * v;
    }
    let scale = (block_sum(sum, threads) / cols.to::<f32>() + eps).rsqrt();
    for col in strided(cols, threads) {
        let v = x[(row, col)].to::<f32>();
        y[(row, col)] = (v * scale * w[col]).to();
    }
}

#[kernel(threads = 32)]
fn flow(x: In<f32>, y: Out<f32>, n: u32, #[comptime] k: usize) {
    let i = thread_index();
    if i >= n || x[i] == 0.0 {
        return;
    }
    let mut best = f32(0.0);
    for j in 0..n {
        if x[j] > best && j != i {
            best = x[j];
        } else if j == 3 {
            continue;
        }
        if j > k {
            break;
        }
    }
    for c in 0..k {
        if c == 2 {
            break;
        }
        best += 1.0 * f32(c as f32);
    }
    let mut t = i;
    while t > 0 {
        t = t / 2;
    }
    let z = if t == 0 { best } else { -best };
    y[i] = z;
}

#[test]
fn records() {
    for target in [&HOST, Target::named("gfx1150").unwrap()] {
        let k = rms_norm::<f16>(256).record(target).map_err(|e| e.to_string()).unwrap();
        println!("{} {:#?}", k.symbol, k.body.block.len());
        let k = flow(5).record(target).map_err(|e| e.to_string()).unwrap();
        println!("{} {:#?}", k.symbol, k.body.block.len());
    }
}
