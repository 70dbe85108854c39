//! The batch object, which is also what the store keeps of a batch.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::lines::LineFault;

/// How ids of batches begin; others are not looked for.
pub(super) const PREFIX: &str = "batch_";
/// How long a batch may take, and the only window that OpenAI has.
pub(super) const WINDOW: &str = "24h";
const WINDOW_SECONDS: u64 = 24 * 3_600;

/// How far a batch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum BatchStatus {
    /// Its file cannot be served.
    Failed,
    /// Its lines are asked, or wait to be.
    InProgress,
    /// Its files are written.
    Finalizing,
    /// Each line has its outcome.
    Completed,
    /// It took longer than its window.
    Expired,
    /// A client called it off, and it has not ended yet.
    Cancelling,
    /// It was called off.
    Cancelled,
}

/// What became of the lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct LineCounts {
    pub(super) total: usize,
    pub(super) completed: usize,
    pub(super) failed: usize,
}

/// A list of faults in OpenAI's form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FaultList {
    object: String,
    data: Vec<LineFault>,
}

/// A batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct BatchObject {
    pub(super) id: String,
    object: String,
    pub(super) endpoint: String,
    errors: Option<FaultList>,
    pub(super) input_file_id: String,
    completion_window: String,
    pub(super) status: BatchStatus,
    pub(super) output_file_id: Option<String>,
    pub(super) error_file_id: Option<String>,
    pub(super) created_at: u64,
    in_progress_at: Option<u64>,
    pub(super) expires_at: u64,
    finalizing_at: Option<u64>,
    completed_at: Option<u64>,
    failed_at: Option<u64>,
    expired_at: Option<u64>,
    cancelling_at: Option<u64>,
    cancelled_at: Option<u64>,
    pub(super) request_counts: LineCounts,
    metadata: Option<Map<String, Value>>,
}

impl BatchObject {
    /// A batch whose file was read: its lines, or what is wrong with them.
    pub(super) fn new(
        endpoint: &str,
        input_file_id: &str,
        metadata: Option<Map<String, Value>>,
        read: Result<usize, Vec<LineFault>>,
        now: u64,
    ) -> Self {
        let is_good = read.is_ok();
        Self {
            id: format!("{PREFIX}{}", Uuid::new_v4().simple()),
            object: "batch".to_owned(),
            endpoint: endpoint.to_owned(),
            request_counts: LineCounts { total: *read.as_ref().unwrap_or(&0), ..LineCounts::default() },
            errors: read.err().map(FaultList::of),
            input_file_id: input_file_id.to_owned(),
            completion_window: WINDOW.to_owned(),
            status: if is_good { BatchStatus::InProgress } else { BatchStatus::Failed },
            output_file_id: None,
            error_file_id: None,
            created_at: now,
            in_progress_at: is_good.then_some(now),
            expires_at: now + WINDOW_SECONDS,
            finalizing_at: None,
            completed_at: None,
            failed_at: (!is_good).then_some(now),
            expired_at: None,
            cancelling_at: None,
            cancelled_at: None,
            metadata,
        }
    }

    /// Whether its lines are still to be asked, or its files to be written.
    pub(super) fn is_under_way(&self) -> bool {
        use BatchStatus::{Cancelling, Finalizing, InProgress};
        matches!(self.status, InProgress | Finalizing | Cancelling)
    }

    /// It is `status` from `now` on.
    pub(super) fn set_status(&mut self, status: BatchStatus, now: u64) {
        self.status = status;
        let at = match status {
            BatchStatus::Failed => &mut self.failed_at,
            BatchStatus::InProgress => &mut self.in_progress_at,
            BatchStatus::Finalizing => &mut self.finalizing_at,
            BatchStatus::Completed => &mut self.completed_at,
            BatchStatus::Expired => &mut self.expired_at,
            BatchStatus::Cancelling => &mut self.cancelling_at,
            BatchStatus::Cancelled => &mut self.cancelled_at,
        };
        *at = Some(now);
    }

    /// It cannot go on.
    pub(super) fn fail(&mut self, fault: LineFault, now: u64) {
        self.errors = Some(FaultList::of(vec![fault]));
        self.set_status(BatchStatus::Failed, now);
    }
}

impl FaultList {
    fn of(data: Vec<LineFault>) -> Self {
        Self { object: "list".to_owned(), data }
    }
}
