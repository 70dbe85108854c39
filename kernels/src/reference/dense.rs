//! Operations on whole rows.

/// Gathers rows of the embedding table: `out[t] = table[tokens[t]]`.
///
/// `table`: `[vocab, hidden]`; out: `[T, hidden]`.
///
/// # Panics
/// If a token is not in the table.
#[must_use]
pub fn embed(table: &[f32], hidden: usize, tokens: &[u32]) -> Vec<f32> {
    tokens.iter().flat_map(|&token| &table[token as usize * hidden..][..hidden]).copied().collect()
}

/// Root-mean-square norm of each row: `out[t][i] = x[t][i] * scale[i] / sqrt(mean(x[t]^2) + eps)`.
///
/// `x`, out: `[T, H]`; `scale`: `[H]`. Source: Zhang & Sennrich 2019, arXiv:1910.07467, eq. 4.
#[must_use]
pub fn rms_norm(x: &[f32], scale: &[f32], eps: f32) -> Vec<f32> {
    let mut out = Vec::with_capacity(x.len());
    for row in x.chunks_exact(scale.len()) {
        let mut squares = 0.0;
        for value in row {
            squares += value * value;
        }
        let inverse = 1.0 / (squares / row.len() as f32 + eps).sqrt();
        for (value, scale) in row.iter().zip(scale) {
            out.push(scale * (value * inverse));
        }
    }
    out
}

/// A linear map: `out[t][n] = bias[n] + sum over k of weight[n][k] * x[t][k]`. The lm_head is one
/// without bias.
///
/// `x`: `[T, cols]`; `weight`: `[N, cols]`; `bias`: `[N]`; out: `[T, N]`.
#[must_use]
pub fn linear(x: &[f32], weight: &[f32], cols: usize, bias: Option<&[f32]>) -> Vec<f32> {
    let mut out = Vec::new();
    for row in x.chunks_exact(cols) {
        for (n, weight) in weight.chunks_exact(cols).enumerate() {
            let mut sum = 0.0;
            for (value, weight) in row.iter().zip(weight) {
                sum += value * weight;
            }
            out.push(sum + bias.map_or(0.0, |bias| bias[n]));
        }
    }
    out
}

/// Adds `y` to the residual stream: `x[i] += y[i]`.
///
/// # Panics
/// If their lengths differ.
pub fn add(x: &mut [f32], y: &[f32]) {
    assert_eq!(x.len(), y.len(), "as much to add as there is");
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

/// Log-probabilities of a row of logits:
/// `out[i] = logits[i] - max - ln(sum over j of exp(logits[j] - max))`.
///
/// The sum is f64: 200,000 terms added one by one in f32 would cost three digits.
#[must_use]
pub fn log_softmax(logits: &[f32]) -> Vec<f32> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - max).exp()).sum();
    let log_sum = sum.ln() as f32;
    logits.iter().map(|logit| logit - max - log_sum).collect()
}
