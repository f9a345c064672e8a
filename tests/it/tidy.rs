//! The code holds to its own rules: layers, sizes, no forgotten files, crates named in one place.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A module uses only modules of layers before its own, and in its own layer only those named here. Each of those is used.
const LAYERS: &[&[(&str, &[&str])]] = &[
    &[
        ("ident", &[]),
        ("fault", &[]),
        ("clock", &[]),
        ("panics", &[]),
        ("passed", &[]),
        ("spill", &[]),
        ("event", &["fault", "ident", "passed"]),
        ("faultpoint", &[]),
        ("wording", &[]),
    ],
    &[("config", &["store"]), ("wire", &[]), ("store", &[])],
    &[
        ("rows", &["checkpoint", "decode"]),
        ("tally", &[]),
        ("table", &[]),
        ("checkpoint", &[]),
        ("journal", &[]),
        ("cache", &[]),
        ("prompt", &["tokens"]),
        ("decode", &[]),
        ("tokens", &[]),
        ("budget", &[]),
        ("transport", &["decode", "prompt"]),
        ("admission", &[]),
        ("ledger", &[]),
        ("simulator", &[]),
    ],
    &[
        ("source", &[]),
        ("documents", &[]),
        ("sink", &["source"]),
        ("plan", &["source"]),
        ("query", &["documents", "source"]),
        ("executor", &[]),
        ("dispatch", &["executor"]),
        ("submitter", &["executor"]),
        ("metrics", &[]),
    ],
    &[("enricher", &[])],
    &[("run", &[]), ("service", &["run"]), ("inspect", &["run"]), ("export", &[])],
    &[("progress", &[]), ("serve", &[]), ("report_page", &[])],
    &[("cli", &[])],
];

/// Circles of imports between files, each with its reason in ARCHITECTURE.
const CIRCLES: &[&[&str]] = &[];

/// Types whose name stands in two files, with the reason.
const SHARED_NAMES: &[(&str, &str)] = &[];

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
    let mut unused: BTreeSet<(&str, &str)> = BTreeSet::new();
    for layer in LAYERS {
        for (module, siblings) in *layer {
            let mut may: BTreeSet<&str> = above.clone();
            may.extend(*siblings);
            may.insert(module);
            allowed.insert(module, may);
            unused.extend(siblings.iter().map(|sibling| (*module, *sibling)));
        }
        above.extend(layer.iter().map(|(module, _)| *module));
    }
    let mut missing = above.clone();
    for (file, text) in files() {
        let own = module(&file);
        if own == "lib" || own == "main" {
            continue;
        }
        missing.remove(own.as_str());
        let may = allowed.get(own.as_str()).unwrap_or_else(|| panic!("{own} stands in no layer"));
        for name in used(&text) {
            let is_module = allowed.contains_key(name.as_str());
            assert!(!is_module || may.contains(name.as_str()), "{} uses {name}", file.display());
            unused.retain(|(module, sibling)| *module != own || *sibling != name);
        }
    }
    assert!(missing.is_empty(), "there are no modules {missing:?}");
    assert!(unused.is_empty(), "these neighbours are allowed and not used: {unused:?}");
}

/// The code of a file without its comments and its tests.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

/// The files that a file imports from its own folder, by `super::file` or by a name that the folder's `mod.rs` re-exports.
fn neighbours(file: &Path, text: &str, all: &BTreeMap<PathBuf, String>) -> BTreeSet<PathBuf> {
    let folder = file.parent().unwrap();
    let is_door = file.file_stem().unwrap() == "mod";
    let door = all.get(&folder.join("mod.rs")).map(String::as_str).unwrap_or_default();
    let mut found = BTreeSet::new();
    let starts = if is_door { "self::" } else { "super::" };
    for rest in text.split(starts).skip(1) {
        let names: Vec<String> = match rest.strip_prefix('{') {
            Some(list) => {
                let list = list.split(';').next().unwrap_or_default();
                list.split([',', '{', '}']).map(|name| first_word(name.trim())).collect()
            }
            None => vec![first_word(rest)],
        };
        for name in names.into_iter().filter(|name| !name.is_empty()) {
            let of_name = folder.join(format!("{name}.rs"));
            let of_folder = folder.join(&name).join("mod.rs");
            if all.contains_key(&of_name) {
                found.insert(of_name);
            } else if all.contains_key(&of_folder) {
                found.insert(of_folder);
            } else if let Some(line) = door.split(';').find(|line| {
                line.contains("use ")
                    && line.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|word| word == name)
            }) {
                let from =
                    first_word(line.split("use ").nth(1).unwrap_or_default().trim_start_matches("self::"));
                found.insert(folder.join(format!("{from}.rs")));
            }
        }
    }
    found.remove(file);
    found.retain(|file| all.contains_key(file));
    found
}

#[test]
fn files_of_a_folder_import_each_other_in_no_circle() {
    let all: BTreeMap<PathBuf, String> =
        files().into_iter().map(|(file, text)| (file, code(&text))).collect();
    let uses: BTreeMap<&PathBuf, BTreeSet<PathBuf>> =
        all.iter().map(|(file, text)| (file, neighbours(file, text, &all))).collect();
    // What a file reaches, over any number of imports.
    let reaches = |from: &PathBuf| {
        let mut seen = BTreeSet::new();
        let mut next: Vec<&PathBuf> = uses[from].iter().collect();
        while let Some(file) = next.pop() {
            if seen.insert(file.clone()) {
                next.extend(uses[file].iter());
            }
        }
        seen
    };
    let reached: BTreeMap<&PathBuf, BTreeSet<PathBuf>> =
        all.keys().map(|file| (file, reaches(file))).collect();
    let mut circles: BTreeSet<Vec<String>> = BTreeSet::new();
    for (file, reached_files) in &reached {
        if reached_files.contains(*file) {
            let members = reached_files.iter().filter(|other| reached[other].contains(*file));
            circles.insert(members.map(|member| member.display().to_string()).collect());
        }
    }
    let known: BTreeSet<Vec<String>> =
        CIRCLES.iter().map(|circle| circle.iter().map(|file| (*file).to_owned()).collect()).collect();
    assert_eq!(circles, known);
}

#[test]
fn a_type_name_stands_in_one_file() {
    let mut places: BTreeMap<String, BTreeSet<PathBuf>> = BTreeMap::new();
    for (file, text) in files() {
        for line in code(&text).lines() {
            let line = line.trim_start();
            let line = ["pub(crate) ", "pub(super) ", "pub "]
                .iter()
                .find_map(|visibility| line.strip_prefix(visibility))
                .unwrap_or(line);
            for word in ["struct ", "enum ", "trait "] {
                if let Some(rest) = line.strip_prefix(word) {
                    places.entry(first_word(rest)).or_default().insert(file.clone());
                }
            }
        }
    }
    places.retain(|_, files| files.len() > 1);
    let shared: BTreeSet<&str> = SHARED_NAMES.iter().map(|(name, _)| *name).collect();
    let found: BTreeSet<&str> = places.keys().map(String::as_str).collect();
    assert_eq!(found, shared, "{places:?}");
    assert!(shared.len() <= 12);
}

#[test]
fn crates_with_a_door_are_named_behind_it_only() {
    for (name, doors) in [
        ("deltalake", &["table"][..]),
        ("reqwest", &["transport"]),
        ("governor", &["admission"]),
        ("axum", &["simulator", "progress", "serve"]),
        ("tiktoken_rs", &["tokens"]),
        ("anyhow", &["cli"]),
        ("rusqlite", &["cache"]),
        ("plotters", &["report_page"]),
        ("hayro_interpret", &["documents"]),
        ("rlimit", &["documents"]),
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
        let parents = match file.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            Some(folder) => [folder.join("mod.rs"), folder.with_extension("rs")],
            None => [PathBuf::from("lib.rs"), PathBuf::from("main.rs")],
        };
        let declared = files
            .iter()
            .any(|(other, text)| parents.contains(other) && text.contains(&format!("mod {name};")));
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
fn the_architecture_page_names_files_that_are_there() {
    let page = include_str!("../../src/ARCHITECTURE.md");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let named =
        page.split('`').skip(1).step_by(2).filter(|name| name.ends_with(".rs") && !name.contains('<'));
    let missing: Vec<&str> = named.filter(|name| !root.join(name).is_file()).collect();
    assert!(missing.is_empty(), "{missing:?}");
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
