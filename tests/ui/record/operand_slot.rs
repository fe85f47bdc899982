use tilekiln_dsl::comptime::KernelDef;
use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn product(x: In<u32>, y: Out<i32>) {
    let rows = RowOperand::<i8>::undefined();
    let columns = ColumnOperand::<i8>::undefined();
    for word in 0..5 {
        rows.set(0, word, x[word]);
    }
    for word in 0..4 {
        columns.set(word, x[word]);
    }
    let sums = Products::<i32>::zeros(1);
    multiply(sums.at(0), rows, columns);
    y[lane_index()] = sums.at(0).get(0, 1);
}

pub fn rejected() -> KernelDef {
    product()
}
