use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn product(y: Out<i32>) {
    let rows = RowOperand::<i8>::undefined();
    let columns = ColumnOperand::<u8>::undefined();
    let sums = Products::<i32>::zeros(1);
    multiply(sums.at(0), rows, columns);
    y[0] = 1;
}

fn main() {}
