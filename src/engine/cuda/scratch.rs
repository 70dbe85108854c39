//! What a step computes with: taken once, for the largest step.

use super::layout::step_words_max;
use super::memory::{CudaOptions, head_shape, mask_words_max, round_words_max, scratch_bytes};
use super::share::RankShare;
use crate::engine::config::ModelConfig;
use antiphon_kernels::cuda::{
    Activations, Arena, Arranged, CudaError, Device, Event, ExpertRegions, MatrixInstruction, Pinned, REPORT_WORDS, Region,
    RouteRegions, partial_values,
};
use half::f16;

/// Regions on the device, and the pinned memory beside them.
#[derive(Debug)]
pub(super) struct Scratch {
    /// The residual stream, `[T, hidden]`.
    pub(super) stream: Region<f32>,
    /// A norm of it.
    pub(super) normed: Activations,
    /// `[T, qkv]`.
    pub(super) qkv: Region<f32>,
    /// `[T, heads, row]`.
    pub(super) queries: Region<f16>,
    /// `[T, heads * head_dim]`.
    pub(super) attended: Activations,
    /// Partial sums of attention.
    pub(super) partials: Region<f32>,
    /// Which experts each token goes to.
    pub(super) routes: RouteRegions,
    /// What the experts compute.
    pub(super) experts: ExpertRegions,
    /// Norms of the rows whose logits are computed now.
    pub(super) picked: Activations,
    /// `[rows, vocab]`.
    pub(super) logits: Region<f32>,
    /// What the ranks give each other, one part a rank: sums of `[T, hidden]`, or logits of `[rows,
    /// vocab_rows]`. Empty for one alone.
    pub(super) gathered: Region<f32>,
    /// Logits on their way back.
    pub(super) saved: Region<f32>,
    /// What was drawn.
    pub(super) reports: Region<u32>,
    /// Rows as wgmma reads them, where it multiplies.
    pub(super) arranged: Option<Arranged>,
    /// The step's lists.
    pub(super) step: Region<u32>,
    /// The round's lists.
    pub(super) round: Region<u32>,
    /// The round's masks, where captured steps look for them too.
    pub(super) masks: Region<u32>,
    /// Of each step under way.
    pub(super) sides: [Side; 2],
    /// One row of logits, for what the device does not report.
    pub(super) host_logits: Pinned<f32>,
}

/// The host's side of a step: its lists on their way to the device, and what comes back.
#[derive(Debug)]
pub(super) struct Side {
    pub(super) step: Pinned<u32>,
    pub(super) round: Pinned<u32>,
    pub(super) masks: Pinned<u32>,
    pub(super) reports: Pinned<u32>,
    /// Its reports are here.
    pub(super) done: Event,
}

impl Scratch {
    pub(super) fn new(
        device: &Device,
        whole: &ModelConfig,
        options: &CudaOptions,
        share: RankShare,
    ) -> Result<Self, CudaError> {
        let mut arena = Arena::new(device, "the activations", scratch_bytes(whole, options, share))?;
        let config = &share.config(whole);
        let shape = head_shape(config, options.block_tokens);
        let (tokens, rows) = (options.step_tokens_max, options.logit_rows());
        let (pairs, vocab) = (tokens * config.experts_per_token, config.vocab_size);
        let (step_words, round_words) = (step_words_max(config, options), round_words_max(config, options));
        let side = || -> Result<Side, CudaError> {
            Ok(Side {
                step: Pinned::new(device, step_words)?,
                round: Pinned::new(device, round_words)?,
                masks: Pinned::new(device, mask_words_max(config, options))?,
                reports: Pinned::new(device, rows * REPORT_WORDS)?,
                done: device.event()?,
            })
        };
        let is_arranged = options.prefill == MatrixInstruction::Wgmma;
        let arranged = is_arranged.then(|| Arranged::new(&mut arena, options.arranged_values(config)));
        let mut routes = RouteRegions::new(&mut arena, tokens, config.experts_per_token, share.experts(whole));
        if let Some(arranged) = &arranged {
            routes = routes.with_wgmma(arranged.clone());
        }
        let scratch = Self {
            stream: arena.take(tokens * config.hidden),
            normed: Activations::new(&mut arena, tokens, config.hidden),
            qkv: arena.take(tokens * shape.qkv_width()),
            queries: arena.take(tokens * config.heads * shape.row()),
            attended: Activations::new(&mut arena, tokens, config.query_width()),
            partials: arena.take(options.partial_slots.max(1) * partial_values(config.heads, config.head_dim)),
            routes,
            experts: ExpertRegions {
                inner: Activations::new(&mut arena, pairs, config.intermediate),
                outputs: arena.take(pairs * config.hidden),
            },
            picked: Activations::new(&mut arena, rows, config.hidden),
            logits: arena.take(rows * vocab),
            gathered: arena.take(share.gathered_values(whole, tokens, rows)),
            saved: arena.take(options.edits(config)),
            reports: arena.take(rows * REPORT_WORDS),
            step: arena.take(step_words),
            round: arena.take(round_words),
            masks: arena.take(mask_words_max(config, options)),
            arranged,
            sides: [side()?, side()?],
            host_logits: Pinned::new(device, vocab)?,
        };
        assert_eq!(arena.left_bytes(), 0, "the plan counts what is taken");
        Ok(scratch)
    }
}
