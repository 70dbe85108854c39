//! Checkpoints with their experts dequantised, as transformers saves them, and with numbers of
//! other types.

use antiphon_kernels::reference::mxfp4_to_f32;
use antiphon_kernels::weights::Mxfp4Stack;
use half::{bf16, f16};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use std::fs;
use std::path::Path;

use super::driver::Driver;
use super::files::{Golden, at, checkpoint};
use crate::embedded::{Server, command};

/// Writes the checkpoint in `from`, of one shard, into `to`: experts in bf16 with inputs first, and
/// no word of a quantisation.
pub(super) fn dequantise(from: &Path, to: &Path) {
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(from.join("config.json")).unwrap()).unwrap();
    config.as_object_mut().unwrap().remove("quantization_config");
    fs::write(to.join("config.json"), config.to_string()).unwrap();
    fs::copy(from.join("generation_config.json"), to.join("generation_config.json")).unwrap();
    let bytes = fs::read(from.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut written = Vec::new();
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
            written.push((name.to_owned(), Dtype::BF16, vec![experts, cols, rows], values.flatten().collect()));
        } else if !name.ends_with("_scales") {
            written.push((name, view.dtype(), view.shape().to_vec(), view.data().to_vec()));
        }
    }
    write(&written, to);
}

/// A tensor: its name, type, shape and bytes.
type Written = (String, Dtype, Vec<usize>, Vec<u8>);

fn write(tensors: &[Written], to: &Path) {
    let views =
        tensors.iter().map(|(name, dtype, shape, bytes)| (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    safetensors::serialize_to_file(views, None, &to.join("model.safetensors")).unwrap();
}

/// Writes the checkpoint in `from`, of one shard, into `to`, its bf16 tensors as `dtype`. Their
/// values are those that F16 has too, so that every type means the same model.
fn store_as(dtype: Dtype, from: &Path, to: &Path) {
    for file in ["config.json", "generation_config.json"] {
        fs::copy(from.join(file), to.join(file)).unwrap();
    }
    let bytes = fs::read(from.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let stored = |(name, view): (String, TensorView<'_>)| {
        let is_number = view.dtype() == Dtype::BF16;
        let convert = |two: &[u8]| {
            let value = f16::from_f32(bf16::from_le_bytes(two.try_into().unwrap()).to_f32());
            match dtype {
                Dtype::F16 => value.to_le_bytes().to_vec(),
                Dtype::F32 => value.to_f32().to_le_bytes().to_vec(),
                Dtype::BF16 => bf16::from_f32(value.to_f32()).to_le_bytes().to_vec(),
                other => panic!("{other} is no type of this test"),
            }
        };
        let bytes = if is_number { view.data().chunks_exact(2).flat_map(convert).collect() } else { view.data().to_vec() };
        (name, if is_number { dtype } else { view.dtype() }, view.shape().to_vec(), bytes)
    };
    write(&tensors.tensors().into_iter().map(stored).collect::<Vec<_>>(), to);
}

/// All logits of g2's prompts, as bits.
fn logits(directory: &Path) -> Vec<Vec<u32>> {
    let golden = Golden { checkpoint: checkpoint(directory), ..Golden::open("g2") };
    let mut driver = Driver::new(&golden, 2);
    let rows = golden.cases.iter().flat_map(|case| driver.logits(&case.prompt, usize::MAX));
    rows.map(|row| row.iter().map(|logit| logit.to_bits()).collect()).collect()
}

/// F16 and F32 numbers, in matrices, vectors and dense experts, are the model that its bf16 twin
/// is, to the bit.
#[test]
fn f16_and_f32_are_the_model_of_their_bf16_twin() {
    let folders = [(); 4].map(|()| tempfile::tempdir().unwrap());
    let [dense, bf16, f16, f32] = folders.each_ref().map(tempfile::TempDir::path);
    dequantise(&at("tests/goldens/g2"), dense);
    for from in [&at("tests/goldens/g2"), dense] {
        store_as(Dtype::BF16, from, bf16);
        let twin = logits(bf16);
        for (dtype, to) in [(Dtype::F16, f16), (Dtype::F32, f32)] {
            store_as(dtype, from, to);
            assert!(logits(to) == twin, "{dtype} of {}", from.display());
            let warnings = checkpoint(to).warnings().concat();
            assert!(warnings.ends_with(&format!("which is {dtype}")), "{warnings}");
        }
    }
}

/// `/health` and the metrics name the type that the experts are stored in.
#[test]
fn the_type_of_the_experts_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (golden, dense) = (at("tests/goldens/g2"), folder.path());
    dequantise(&golden, dense);
    fs::copy(golden.join("tokenizer.json"), dense.join("tokenizer.json")).unwrap();
    for (model, dtype) in [(golden.as_path(), "mxfp4"), (dense, "bf16")] {
        let options = ["--model", model.to_str().unwrap(), "--kv-bytes", "16MiB", "--threads", "1"];
        let server = Server::of(&mut command(&options));
        let health: serde_json::Value = serde_json::from_str(&server.ask("GET", "/health", "")).unwrap();
        assert_eq!((&health["dtype"], &health["model"]["dtype"]), (&dtype.into(), &dtype.into()));
        let metrics = server.ask("GET", "/metrics", "");
        assert!(metrics.contains(&format!("dtype=\"{dtype}\"")), "{metrics}");
    }
}
