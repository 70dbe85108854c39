use super::*;

#[test]
fn a_view_asks_for_exactly_the_bytes_of_its_shape() {
    assert!(Bf16Matrix::new(&[0; 12], 2, 3).is_ok());
    let error = Bf16Matrix::new(&[0; 11], 2, 3).unwrap_err();
    assert_eq!(error, ShapeError::Length { what: "a bf16 matrix", got: 11, expected: 12, shape: vec![2, 3] });
    assert_eq!(error.to_string(), "a bf16 matrix has 11 bytes, but shape [2, 3] asks for 12");
    assert!(matches!(Bf16Matrix::new(&[], usize::MAX, 3), Err(ShapeError::Overflow { .. })));
}

#[test]
fn mxfp4_has_whole_blocks_only() {
    assert_eq!(Mxfp4Matrix::new(&[0; 24], &[0], 1, 48).unwrap_err(), ShapeError::PartialBlock { cols: 48 });
    assert!(Mxfp4Matrix::new(&[0; 64], &[0; 4], 2, 64).is_ok());
    assert!(matches!(Mxfp4Matrix::new(&[0; 64], &[0; 3], 2, 64), Err(ShapeError::Length { got: 3, expected: 4, .. })));
    assert!(matches!(Mxfp4Stack::new(&[0; 63], &[0; 4], 1, 2, 64), Err(ShapeError::Length { got: 63, expected: 64, .. })));
}

#[test]
fn an_expert_is_its_share_of_the_stack() {
    let blocks: Vec<u8> = (0..3 * 2 * 16).map(|byte| byte as u8).collect();
    let scales: Vec<u8> = (0..3 * 2).collect();
    let stack = Mxfp4Stack::new(&blocks, &scales, 3, 2, 32).unwrap();
    let second = stack.expert(1);
    assert_eq!(second.row_blocks(1), &blocks[48..64]);
    assert_eq!(second.row_scales(1), &[3]);
}

#[test]
fn experts_that_do_not_fit_together_are_named() {
    let (hidden, intermediate, count) = (32, 64, 2);
    let gate_up_blocks = vec![0; count * 2 * intermediate * hidden / 2];
    let gate_up_scales = vec![0; count * 2 * intermediate * hidden / 32];
    let gate_up = Mxfp4Stack::new(&gate_up_blocks, &gate_up_scales, count, 2 * intermediate, hidden).unwrap();
    let down = Mxfp4Stack::new(&gate_up_blocks[..2048], &gate_up_scales[..128], count, hidden, intermediate).unwrap();
    let zeros = vec![0; 1024];
    let gate_up_bias = Bf16Matrix::new(&zeros[..512], count, 2 * intermediate).unwrap();
    let down_bias = Bf16Matrix::new(&zeros[..128], count, hidden).unwrap();
    let experts = Experts::new(gate_up, gate_up_bias, down, down_bias, SwiGlu::default()).unwrap();
    assert_eq!((experts.count(), experts.hidden(), experts.intermediate()), (count, hidden, intermediate));
    let error = Experts::new(gate_up, down_bias, down, down_bias, SwiGlu::default()).unwrap_err();
    assert_eq!(error.to_string(), "gate_up_bias should be [2, 128] but is [2, 32]");
}
