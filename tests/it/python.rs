//! Programs of PyPI that tests use: a reader that shares no code with this one, and a server of S3's interface.
//!
//! Where there is no Python, such tests do nothing; `ENRICH_PYTHON=required`, as CI sets it, makes that a failure.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

static MAKING: Mutex<()> = Mutex::new(());

/// A Python that has a module; it and its package are put into the folder of builds if need be.
pub fn with(module: &str, package: &str) -> Option<PathBuf> {
    match made(module, package) {
        Ok(python) => Some(python),
        Err(error) => {
            assert!(std::env::var_os("ENRICH_PYTHON").is_none(), "no Python with {package}: {error}");
            println!("skipped: no Python with {package}: {error}");
            None
        }
    }
}

fn made(module: &str, package: &str) -> Result<PathBuf, String> {
    let _made_once = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python");
    let python = folder.join("bin/python");
    let run = |program: &Path, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().map_err(|error| error.to_string())?;
        match output.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    };
    if run(&python, &["-c", &format!("import {module}")]).is_ok() {
        return Ok(python);
    }
    if !python.exists() {
        run(Path::new("python3"), &["-m", "venv", folder.to_str().unwrap()])?;
    }
    run(&python, &["-m", "pip", "install", "--quiet", "--disable-pip-version-check", package])?;
    Ok(python)
}
