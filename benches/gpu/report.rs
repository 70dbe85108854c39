//! What was measured: a line of JSON each, written at once, so that a part that is cut loses
//! nothing that came before; and the tables made of them.

use serde_json::{Value, json};
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// bf16 products a second that an 8192 x 8192 x 8192 product of a library reached on random data,
/// on these devices.
const OPERATIONS: [(&str, f64); 2] = [("H200", 790e12), ("H100", 790e12)];

/// What a device can do at most.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Roof {
    /// Bytes a second, read and written, of a copy; zero if unknown.
    pub(crate) bytes: f64,
    /// bf16 operations a second; zero if unknown.
    pub(crate) operations: f64,
}

/// One measurement.
pub(crate) struct Measured {
    pub(crate) what: String,
    pub(crate) size: String,
    /// Median of the repetitions.
    pub(crate) seconds: f64,
    /// Fastest repetition.
    pub(crate) fastest: f64,
    /// Bytes that must be moved.
    pub(crate) bytes: f64,
    pub(crate) operations: f64,
    /// Tokens that came out.
    pub(crate) tokens: Option<usize>,
    pub(crate) note: String,
}

/// The folder of a run.
pub(crate) struct Results {
    folder: PathBuf,
    part: String,
}

impl Results {
    pub(crate) fn new(folder: &Path, part: &str) -> Self {
        Self { folder: folder.to_owned(), part: part.to_owned() }
    }

    fn append(&self, line: &Value) -> Result<(), String> {
        let path = self.folder.join("lines.jsonl");
        let said = |error: std::io::Error| format!("{}: {error}", path.display());
        let mut file = OpenOptions::new().create(true).append(true).open(&path).map_err(said)?;
        writeln!(file, "{line}").map_err(said)
    }

    /// Keeps a measurement, and shows it.
    pub(crate) fn add(&self, roof: Roof, one: &Measured) -> Result<(), String> {
        let needed = [(one.bytes, roof.bytes), (one.operations, roof.operations)];
        let least = needed.iter().filter(|(_, roof)| *roof > 0.0).map(|(need, roof)| need / roof).fold(0.0, f64::max);
        let share = (least > 0.0).then(|| 100.0 * least / one.seconds);
        let line = json!({
            "part": self.part, "what": one.what, "size": one.size, "seconds": one.seconds, "fastest_seconds": one.fastest,
            "bytes": one.bytes, "operations": one.operations, "tokens_per_second": one.tokens.map(|count| count as f64 / one.seconds),
            "roof_percent": share, "note": one.note,
        });
        println!("{line}");
        self.append(&line)
    }

    /// Keeps what the device is.
    pub(crate) fn add_facts(&self, facts: &Value) -> Result<(), String> {
        println!("{facts}");
        let path = self.folder.join("facts.json");
        fs::write(&path, facts.to_string()).map_err(|error| format!("{}: {error}", path.display()))
    }
}

/// What the part `facts` wrote; null if it did not.
fn facts(folder: &Path) -> Value {
    let text = fs::read_to_string(folder.join("facts.json")).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or(Value::Null)
}

/// What the device reaches at most, as far as it is known.
pub(crate) fn roof(folder: &Path) -> Roof {
    let facts = facts(folder);
    let name = facts["device"].as_str().unwrap_or_default();
    let operations = OPERATIONS.iter().find(|(known, _)| name.contains(known)).map_or(0.0, |(_, operations)| *operations);
    Roof { bytes: facts["copy_bytes_per_second"].as_f64().unwrap_or(0.0), operations }
}

/// Writes `report.json` and `report.md` of what is in the folder.
pub(crate) fn report(folder: &Path) -> Result<(), String> {
    let read = |name: &str| -> Vec<Value> {
        let text = fs::read_to_string(folder.join(name)).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    let (facts, lines, parts) = (facts(folder), read("lines.jsonl"), read("parts.jsonl"));
    let run: Value = read("run.json").into_iter().next().unwrap_or(Value::Null);
    let whole = json!({"run": run, "facts": facts, "roof_operations_per_second": roof(folder).operations, "parts": parts, "lines": lines});
    let write = |name: &str, text: &str| fs::write(folder.join(name), text).map_err(|error| format!("{name}: {error}"));
    write("report.json", &format!("{whole:#}\n"))?;
    write("report.md", &markdown(&run, &facts, &parts, &lines))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("not known")
}

fn markdown(run: &Value, facts: &Value, parts: &[Value], lines: &[Value]) -> String {
    let mut out = String::new();
    let mut put = |line: String| writeln!(out, "{line}").expect("writing to a string");
    put(format!("# {}, {}\n", text(&facts["device"]), text(&run["date"])));
    put(format!(
        "Commit {}. Driver: CUDA {}, compute capability {}, {} MiB.",
        text(&run["commit"]),
        text(&facts["driver"]),
        text(&facts["capability"]),
        facts["memory_bytes"].as_u64().unwrap_or(0) >> 20
    ));
    let gigabytes = facts["copy_bytes_per_second"]
        .as_f64()
        .map_or_else(|| "not measured".to_owned(), |rate| format!("{:.0} GB/s", rate / 1e9));
    put(format!(
        "Copy on the device, bytes read and written: {gigabytes}; that is the roof for bytes. Weights are noise of the exact size.\n"
    ));
    put("| part | came out | seconds |\n|---|---|---|".to_owned());
    for part in parts {
        put(format!("| {} | {} | {} |", text(&part["part"]), text(&part["status"]), part["seconds"]));
    }
    let mut last = "";
    for line in lines {
        if text(&line["part"]) != last {
            last = text(&line["part"]);
            put(format!(
                "\n## {last}\n\n| what | size | median | GB/s | TFLOP/s | of the roof | tokens/s | |\n|---|---|---|---|---|---|---|---|"
            ));
        }
        let number = |key: &str| line[key].as_f64().unwrap_or(0.0);
        let seconds = number("seconds");
        let time = if seconds < 1e-3 { format!("{:.1} us", seconds * 1e6) } else { format!("{:.2} ms", seconds * 1e3) };
        let share = line["roof_percent"].as_f64().map_or_else(String::new, |share| format!("{share:.0} %"));
        let tokens = line["tokens_per_second"].as_f64().map_or_else(String::new, |rate| format!("{rate:.0}"));
        let (rate, speed) = (number("bytes") / seconds / 1e9, number("operations") / seconds / 1e12);
        let (what, size, note) = (text(&line["what"]), text(&line["size"]), text(&line["note"]));
        put(format!("| {what} | {size} | {time} | {rate:.0} | {speed:.1} | {share} | {tokens} | {note} |"));
    }
    out
}
