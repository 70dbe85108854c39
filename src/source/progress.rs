//! Shows a download on standard error: a bar on a terminal, a log line every tenth elsewhere.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};

use super::{DownloadStage, Transfer};

/// What the operator sees of a download.
#[derive(Debug, Default)]
pub struct TerminalProgress {
    bar: Option<ProgressBar>,
    /// The file and the tenth of the whole that were logged last.
    logged: Option<(String, u64)>,
}

impl TerminalProgress {
    /// Shows how far the download is.
    pub fn show(&mut self, transfer: Transfer<'_>) {
        if std::io::stderr().is_terminal() {
            self.draw(transfer);
        } else {
            self.log(transfer);
        }
    }

    fn draw(&mut self, transfer: Transfer<'_>) {
        let bar = self.bar.get_or_insert_with(|| {
            let style = ProgressStyle::with_template("{msg} [{wide_bar}] {bytes}/{total_bytes} {bytes_per_sec} (eta {eta})")
                .expect("a constant template is valid");
            ProgressBar::new(transfer.total_bytes).with_style(style)
        });
        bar.set_length(transfer.total_bytes);
        bar.set_position(transfer.done_bytes);
        let doing = match transfer.stage {
            DownloadStage::Fetch => "",
            DownloadStage::Verify => "checking ",
        };
        bar.set_message(format!("{doing}{}", transfer.file));
    }

    fn log(&mut self, transfer: Transfer<'_>) {
        let tenth = transfer.done_bytes * 10 / transfer.total_bytes.max(1);
        let now = (transfer.file.to_owned(), tenth);
        if transfer.stage == DownloadStage::Verify || self.logged.as_ref() == Some(&now) {
            return;
        }
        tracing::info!(
            model = transfer.model,
            file = transfer.file,
            done_bytes = transfer.done_bytes,
            total_bytes = transfer.total_bytes,
            "downloading"
        );
        self.logged = Some(now);
    }
}

impl Drop for TerminalProgress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
