//! Checkpoints with their experts dequantised, as transformers saves them.

use antiphon_kernels::reference::mxfp4_to_f32;
use antiphon_kernels::weights::Mxfp4Stack;
use half::bf16;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use std::collections::HashMap;
use std::fs;
use std::path::Path;

/// Writes the checkpoint in `from`, of one shard, into `to`: experts in bf16 with inputs first, and no word of a quantisation.
pub(super) fn dequantise(from: &Path, to: &Path) {
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(from.join("config.json")).unwrap()).unwrap();
    config.as_object_mut().unwrap().remove("quantization_config");
    fs::write(to.join("config.json"), config.to_string()).unwrap();
    fs::copy(from.join("generation_config.json"), to.join("generation_config.json")).unwrap();
    let bytes = fs::read(from.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut written: HashMap<String, (Dtype, Vec<usize>, Vec<u8>)> = HashMap::new();
    for (name, view) in tensors.tensors() {
        if let Some(name) = name.strip_suffix("_blocks") {
            let scales = tensors.tensor(&format!("{name}_scales")).unwrap();
            let [experts, rows, groups, _] = *view.shape() else { panic!("{name} has four dimensions") };
            let cols = 32 * groups;
            let stack = Mxfp4Stack::new(view.data(), scales.data(), experts, rows, cols).unwrap();
            let values = (0..experts).flat_map(|expert| {
                let matrix = mxfp4_to_f32(&stack.expert(expert));
                (0..rows * cols).map(move |at| bf16::from_f32(matrix[at % rows * cols + at / rows]).to_le_bytes())
            });
            written.insert(name.to_owned(), (Dtype::BF16, vec![experts, cols, rows], values.flatten().collect()));
        } else if !name.ends_with("_scales") {
            written.insert(name, (view.dtype(), view.shape().to_vec(), view.data().to_vec()));
        }
    }
    let views =
        written.iter().map(|(name, (dtype, shape, bytes))| (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    safetensors::serialize_to_file(views, None, &to.join("model.safetensors")).unwrap();
}
