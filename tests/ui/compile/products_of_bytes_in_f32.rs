use tilekiln_dsl::prelude::*;

#[kernel(threads = 32)]
fn product(y: Out<f32>) {
    let rows = RowOperand::<u8>::undefined();
    let columns = ColumnOperand::<i8>::undefined();
    let sums = Products::<f32>::zeros(1);
    multiply(sums.at(0), rows, columns);
    y[0] = 1.0;
}

fn main() {}
