//! `docs/attacks.md` names a test for each attack; here they are looked up.

#![allow(clippy::unwrap_used, reason = "in tests a panic is the report")]

use std::collections::BTreeMap;
use std::path::Path;

#[test]
fn every_test_that_attacks_md_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = std::fs::read_to_string(root.join("docs/attacks.md")).unwrap();
    let named: Vec<(&str, &str)> = page
        .split('`')
        .skip(1)
        .step_by(2)
        .filter_map(|code| code.split_once("::"))
        .collect();
    assert!(named.len() > 100, "only {} tests were found", named.len());

    let (mut files, mut missing) = (BTreeMap::new(), Vec::new());
    for (file, test) in named {
        let text = files
            .entry(file)
            .or_insert_with(|| std::fs::read_to_string(root.join(file)).unwrap_or_default());
        if !is_test(text, test) {
            missing.push(format!("{file}::{test}"));
        }
    }
    assert!(missing.is_empty(), "no such tests: {missing:#?}");
}

#[test]
fn every_attack_has_a_test() {
    let page = include_str!("../../docs/attacks.md");
    let rows = page.lines().filter(|line| {
        line.starts_with("| ") && !line.starts_with("| attack ") && !line.starts_with("| where ")
    });
    for row in rows {
        assert!(row.contains(".rs::"), "no test in: {row}");
    }
}

/// Whether `text` has a function of that name, and an attribute (or a
/// `proptest!`) before it that makes it a test.
fn is_test(text: &str, name: &str) -> bool {
    let function = format!("fn {name}(");
    let Some(at) = text.find(&function) else {
        return false;
    };
    let before = &text[..at];
    let attribute = before.rfind("test").unwrap_or(0);
    // Between the attribute and the function lie other attributes at most.
    let between = &before[attribute..];
    attribute > 0 && !between.contains("\n}\n") && !between.contains("\n    }\n")
}

#[test]
fn a_function_that_is_no_test_does_not_count() {
    let text = "#[test]\nfn one() {\n}\n\nfn two() {\n}\n";
    assert!(is_test(text, "one"));
    assert!(!is_test(text, "two"));
    assert!(!is_test(text, "three"));
}
