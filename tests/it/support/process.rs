//! Processes that go on by themselves: signals to them, and their ends.

use std::io::Read;
use std::process::{Child, Command};
use std::time::Duration;

use super::outcome::Outcome;

/// Sends a signal.
pub fn send(child: &Child, signal: &str) {
    let status =
        Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

/// Waits for the end; what was said on standard output is passed over.
pub async fn wait(mut child: Child) -> Outcome {
    let task = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        if let Some(mut stderr) = child.stderr.take() {
            stderr.read_to_string(&mut text).unwrap();
        }
        (child.wait().unwrap(), text)
    });
    let (status, stderr) = task.await.unwrap();
    Outcome { status: status.code(), stdout: String::new(), stderr }
}

/// Waits until a text stands on standard error. What was read until then is not in the outcome of [`wait`].
pub async fn until_said(child: &mut Child, text: &'static str) {
    let mut stderr = child.stderr.take().unwrap();
    let task = tokio::task::spawn_blocking(move || {
        let (mut said, mut byte) = (Vec::new(), [0]);
        while !said.ends_with(text.as_bytes()) {
            assert_eq!(stderr.read(&mut byte).unwrap(), 1, "{text:?} is missing in:\n{}", lossy(&said));
            said.extend(byte);
        }
        stderr
    });
    child.stderr = Some(task.await.unwrap());
}

/// Asks a process to stop in order, and waits until it knows.
pub async fn stop(child: &mut Child, signal: &str) {
    send(child, signal);
    until_said(child, "stopping: waiting for what is in flight").await;
}

fn lossy(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// Waits until a process has stopped, by a signal or at a fault point.
pub async fn until_stopped(child: &Child) {
    let stat = format!("/proc/{}/stat", child.id());
    while !std::fs::read_to_string(&stat).unwrap().contains(") T ") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
