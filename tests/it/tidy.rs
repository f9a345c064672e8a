//! The code holds to its own rules: layers, sizes, no forgotten files, crates named in one place.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A module uses only modules of layers before its own, and in its own layer only those named here.
const LAYERS: &[&[(&str, &[&str])]] = &[
    &[
        ("ident", &[]),
        ("fault", &[]),
        ("clock", &[]),
        ("panics", &[]),
        ("passed", &[]),
        ("spill", &[]),
        ("tokenizer", &[]),
        ("event", &["fault", "ident", "passed"]),
        ("wording", &[]),
        ("faultpoint", &[]),
    ],
    &[("config", &["store"]), ("wire", &[]), ("store", &[])],
    &[
        ("table", &[]),
        ("checkpoint", &[]),
        ("journal", &[]),
        ("cache", &[]),
        ("prompt", &[]),
        ("decode", &[]),
        ("meter", &[]),
        ("transport", &["decode", "prompt"]),
        ("admission", &[]),
        ("simulator", &[]),
        ("tally", &[]),
    ],
    &[
        ("source", &[]),
        ("sink", &["source"]),
        ("plan", &["source"]),
        ("dispatch", &[]),
        ("metrics", &["sink"]),
    ],
    &[("ledger", &[]), ("engine", &["ledger"])],
    &[("progress", &[]), ("report_page", &[])],
    &[("cli", &[])],
];

const MOST_LINES: usize = 600;

fn files() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix(&root).unwrap().to_owned(), text));
            }
        }
    }
    found.sort();
    found
}

/// The module of a file: its first folder, or its name.
fn module(file: &Path) -> String {
    let first = file.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// Modules that a text names after `crate::`.
fn used(text: &str) -> BTreeSet<String> {
    let names = text.split("crate::").skip(1).flat_map(|rest| match rest.strip_prefix('{') {
        Some(list) => list.split(['}', ',']).take(20).map(str::trim).map(first_word).collect::<Vec<_>>(),
        None => vec![first_word(rest)],
    });
    names.filter(|name| !name.is_empty()).collect()
}

fn first_word(text: &str) -> String {
    text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
}

#[test]
fn modules_use_only_what_stands_above_them() {
    let mut allowed: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut above: BTreeSet<&str> = BTreeSet::new();
    for layer in LAYERS {
        for (module, siblings) in *layer {
            let mut may: BTreeSet<&str> = above.clone();
            may.extend(*siblings);
            may.insert(module);
            allowed.insert(module, may);
        }
        above.extend(layer.iter().map(|(module, _)| *module));
    }
    for (file, text) in files() {
        let own = module(&file);
        if own == "lib" || own == "main" {
            continue;
        }
        let may = allowed.get(own.as_str()).unwrap_or_else(|| panic!("{own} stands in no layer"));
        for name in used(&text) {
            let is_module = allowed.contains_key(name.as_str());
            assert!(!is_module || may.contains(name.as_str()), "{} uses {name}", file.display());
        }
    }
}

#[test]
fn crates_with_a_door_are_named_behind_it_only() {
    for (name, doors) in [
        ("deltalake", &["table"][..]),
        ("reqwest", &["transport"]),
        ("governor", &["admission"]),
        ("axum", &["simulator", "progress"]),
        ("tiktoken_rs", &["tokenizer"]),
        ("anyhow", &["cli"]),
        ("rusqlite", &["cache"]),
        ("plotters", &["report_page"]),
        ("prometheus", &["progress"]),
    ] {
        for (file, text) in files() {
            let names = text.contains(&format!("{name}::")) || text.contains(&format!("use {name}"));
            assert!(!names || doors.contains(&module(&file).as_str()), "{} names {name}", file.display());
        }
    }
}

#[test]
fn files_are_small_and_none_is_forgotten() {
    let files = files();
    for (file, text) in &files {
        let lines = text.lines().count();
        assert!(lines <= MOST_LINES, "{} has {lines} lines", file.display());
        assert!(text.starts_with("//!"), "{} begins with what it is for", file.display());
        let name = file.file_stem().unwrap().to_str().unwrap();
        if ["lib", "main", "mod"].contains(&name) {
            continue;
        }
        let parent = match file.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            Some(folder) => folder.join("mod.rs"),
            None => PathBuf::from("lib.rs"),
        };
        let declared =
            files.iter().any(|(other, text)| *other == parent && text.contains(&format!("mod {name};")));
        assert!(declared, "{} is forgotten", file.display());
    }
}

#[test]
fn the_architecture_page_names_every_module() {
    let page = include_str!("../../src/ARCHITECTURE.md");
    for layer in LAYERS {
        for (module, _) in *layer {
            assert!(page.contains(&format!("`{module}`")), "{module} is not on the page");
        }
    }
}

#[test]
fn nothing_at_the_top_is_without_a_place() {
    let known = [
        "Cargo.lock",
        "Cargo.toml",
        "LICENSE",
        "README.md",
        "config",
        "examples",
        "out",
        "src",
        "target",
        "tests",
    ];
    for entry in fs::read_dir(env!("CARGO_MANIFEST_DIR")).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        assert!(name.starts_with('.') || known.contains(&name.as_str()), "{name}");
    }
}
