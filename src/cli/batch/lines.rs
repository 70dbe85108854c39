//! The lines of a batch's file, and which of them its output file has already.

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use anyhow::{Context, bail};
use serde_json::{Map, Value};

/// The routes that lines may ask.
const ROUTES: [&str; 3] = ["/v1/chat/completions", "/v1/completions", "/v1/responses"];

/// A request of the file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct FileLine {
    pub(super) custom_id: String,
    pub(super) url: String,
    pub(super) body: Value,
}

/// The lines of `text`; blank ones are passed over.
///
/// # Errors
/// Names the first line that cannot be asked.
pub(super) fn read(text: &str) -> anyhow::Result<Vec<FileLine>> {
    let (mut lines, mut places) = (Vec::new(), HashMap::new());
    for (index, text) in text.lines().enumerate().filter(|(_, text)| !text.trim().is_empty()) {
        let line =
            read_line(text).with_context(|| format!("line {}", index + 1)).map_err(|error| anyhow::anyhow!("{error:#}"))?;
        if let Some(before) = places.insert(line.custom_id.clone(), index + 1) {
            bail!("line {}: line {before} has the custom_id {:?} too", index + 1, line.custom_id);
        }
        lines.push(line);
    }
    if lines.is_empty() {
        bail!("no line; expected one request a line, as in OpenAI's batch files");
    }
    Ok(lines)
}

fn read_line(text: &str) -> anyhow::Result<FileLine> {
    let mut fields: Map<String, Value> = serde_json::from_str(text).context("expected a JSON object")?;
    let custom_id = match fields.remove("custom_id") {
        Some(Value::String(id)) if !id.is_empty() => id,
        _ => bail!("custom_id: expected a string that is not empty"),
    };
    if fields.get("method").and_then(Value::as_str) != Some("POST") {
        bail!("method: expected POST");
    }
    let url = match fields.remove("url") {
        Some(Value::String(url)) if ROUTES.contains(&url.as_str()) => url,
        _ => bail!("url: expected one of: {}", ROUTES.join(", ")),
    };
    let body = match fields.remove("body") {
        Some(body @ Value::Object(_)) => body,
        _ => bail!("body: expected an object, the request"),
    };
    match ["stream", "background"].into_iter().find(|name| body[*name] == true) {
        Some(name) => bail!("body.{name}: a line is answered in one piece; leave it out"),
        None => Ok(FileLine { custom_id, url, body }),
    }
}

/// Opens the output file to go on where it ends: what it holds already, by `custom_id`. A last line
/// that was cut while it was written is taken off.
///
/// # Errors
/// A file that cannot be written, or that is no output of these lines.
pub(super) fn open_output(path: &Path, lines: &[FileLine]) -> anyhow::Result<(File, HashSet<String>)> {
    let mut options = OpenOptions::new();
    let mut file = options.read(true).write(true).create(true).truncate(false).open(path)?;
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let known: HashSet<&str> = lines.iter().map(|line| line.custom_id.as_str()).collect();
    let mut done = HashSet::new();
    for (index, line) in text[..whole].split(|byte| *byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty()) {
        let result: Option<Value> = serde_json::from_slice(line).ok();
        match result.as_ref().and_then(|result| result["custom_id"].as_str()).filter(|id| known.contains(id)) {
            Some(id) => done.insert(id.to_owned()),
            None => bail!("line {}: no outcome of the batch; give another --output, or remove the file", index + 1),
        };
    }
    file.set_len(whole as u64)?;
    file.seek(SeekFrom::Start(whole as u64))?;
    Ok((file, done))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(id: &str, rest: &str) -> String {
        format!(r#"{{"custom_id":"{id}","method":"POST","url":"/v1/completions","body":{{"prompt":"a"{rest}}}}}"#)
    }

    #[test]
    fn a_line_that_cannot_be_asked_is_named() {
        let told = |text: &str| read(text).unwrap_err().to_string();
        let good = line("a", "");
        assert_eq!(read(&format!("{good}\n\n{}\n", line("b", ""))).unwrap().len(), 2);
        assert!(told(" \n").starts_with("no line"));
        assert!(
            told(&format!("{good}\n{{no")).starts_with("line 2: expected a JSON object"),
            "{}",
            told(&format!("{good}\n{{no"))
        );
        assert_eq!(told(&format!("{good}\n{good}")), "line 2: line 1 has the custom_id \"a\" too");
        assert!(told(&good.replace("completions", "embeddings")).starts_with("line 1: url: expected one of"));
        assert!(told(&good.replace("POST", "GET")).starts_with("line 1: method"));
        assert!(told(&line("a", r#","stream":true"#)).starts_with("line 1: body.stream"));
    }

    #[test]
    fn an_output_goes_on_where_it_ends() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.jsonl");
        let lines = read(&format!("{}\n{}\n", line("a", ""), line("b", ""))).unwrap();
        let (_, done) = open_output(&path, &lines).unwrap();
        assert!(done.is_empty());
        std::fs::write(&path, "{\"custom_id\":\"b\"}\n{\"custom_id\":\"a\",\"resp").unwrap();
        let (_, done) = open_output(&path, &lines).unwrap();
        assert_eq!(done, HashSet::from(["b".to_owned()]));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"custom_id\":\"b\"}\n");
        std::fs::write(&path, "{\"custom_id\":\"other\"}\n").unwrap();
        assert!(open_output(&path, &lines).unwrap_err().to_string().starts_with("line 1: no outcome"));
    }
}
