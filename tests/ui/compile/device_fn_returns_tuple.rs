use tilekiln_dsl::prelude::*;

/// quotient and remainder
#[device_fn]
fn divided(a: Val<u32>, b: Val<u32>) -> (Val<u32>, Val<u32>) {
    (a / b, a % b)
}

#[kernel(threads = 32)]
fn splits(n: u32, y: Out<u32>) {
    let (quotient, rest) = divided(n, n);
    y[0] = quotient + rest;
}

fn main() {}
