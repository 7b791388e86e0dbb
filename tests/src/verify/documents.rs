//! Shell blocks of the documents: each says which test runs it, or why none does.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{e2e, manifests};

/// A fenced block.
struct Block {
    /// Document and line.
    place: String,
    language: String,
    /// The line before it that isn't empty.
    before: String,
}

impl Block {
    /// What is wrong with it.
    fn error(&self) -> Option<String> {
        let fault = |what: &str| Some(format!("{}: {what}", self.place));
        if self.language.is_empty() {
            return fault("the block has no language; use sh for commands, text for anything else");
        }
        if self.language != "sh" {
            return None;
        }
        let marker = self.before.strip_prefix("<!-- ").and_then(|rest| rest.strip_suffix(" -->"));
        let Some(marker) = marker else {
            return fault("put <!-- run by e2e::TEST --> or <!-- not run here: REASON --> before the block");
        };
        if let Some(tests) = marker.strip_prefix("run by ") {
            let all = e2e::all();
            let unknown: Vec<_> = tests.split(", ").filter(|name| !all.iter().any(|test| test.name == *name)).collect();
            return if unknown.is_empty() { None } else { fault(&format!("there is no test {unknown:?}")) };
        }
        match marker.strip_prefix("not run here: ") {
            Some(reason) if !reason.is_empty() => None,
            _ => fault("the marker says neither which test runs the block nor why none does"),
        }
    }
}

fn documents() -> Vec<PathBuf> {
    let docs = manifests::documents();
    let files = fs::read_dir(&docs).unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<_> = files.filter(|path| path.extension().is_some_and(|it| it == "md")).collect();
    all.push(docs.join("../README.md"));
    all
}

fn blocks(path: &Path, text: &str) -> Vec<Block> {
    let (mut found, mut is_open, mut before) = (Vec::new(), false, "");
    for (number, line) in text.lines().map(str::trim).enumerate() {
        if let Some(language) = line.strip_prefix("```") {
            if !is_open {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                let place = format!("{name}:{}", number + 1);
                found.push(Block { place, language: language.to_owned(), before: before.to_owned() });
            }
            is_open = !is_open;
        }
        if !line.is_empty() {
            before = line;
        }
    }
    found
}

#[test]
fn every_command_in_the_documents_is_run_or_says_why_not() {
    let blocks = documents().into_iter().flat_map(|path| blocks(&path, &fs::read_to_string(&path).unwrap()));
    let (commands, errors) = blocks.fold((0, Vec::new()), |(commands, mut errors), block| {
        errors.extend(block.error());
        (commands + usize::from(block.language == "sh"), errors)
    });
    assert!(errors.is_empty(), "{}", errors.join("\n"));
    assert!(commands > 5, "only {commands} blocks were found");
}

#[test]
fn a_block_without_a_true_marker_is_found() {
    let errors = |text: &str| {
        let found = blocks(Path::new("page.md"), text);
        found.iter().filter_map(Block::error).collect::<Vec<_>>().join("\n")
    };
    assert!(errors("```\nls\n```").starts_with("page.md:1: the block has no language"));
    assert!(errors("text\n\n```sh\nls\n```").contains("put <!-- run by"));
    assert!(errors("<!-- run by e2e::nothing::of_that_name -->\n```sh\nls\n```").contains("there is no test"));
    assert!(errors("<!-- not run here: -->\n```sh\nls\n```").contains("neither"));
    assert_eq!(errors("<!-- not run here: it takes a day -->\n\n  ```sh\n  ls\n  ```\n```yaml\na: b\n```"), "");
}
