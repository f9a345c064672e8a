//! The real program, run on a world's job.

use std::process::{Child, Command, Output, Stdio};

use super::outcome::Outcome;
use super::process::until_stopped;
use super::world::World;

impl World {
    /// The program with these arguments, run somewhere else than in the job's folder.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_enrich"));
        for variable in ["RUST_LOG", "ENRICH_FAULT", "OPENAI_API_KEY", "OPENAI_BASE_URL"] {
            command.env_remove(variable);
        }
        command.args(arguments).current_dir("/");
        command
    }

    /// The program with one of its commands, the job, and further arguments.
    pub fn job_command(&self, command: &str, more: &[&str]) -> Command {
        let job = self.job();
        self.command(&[&[command, job.to_str().unwrap()], more].concat())
    }

    /// What comes of a command.
    pub async fn output(&self, mut command: Command) -> Output {
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }

    /// How a command ends.
    pub async fn outcome(&self, command: Command) -> Outcome {
        Outcome::of(&self.output(command).await)
    }

    /// How one of the program's commands ends on the job, with further arguments.
    pub async fn on_job(&self, command: &str, more: &[&str]) -> Outcome {
        self.on_job_with(command, more, &[]).await
    }

    /// The same, with variables in the environment.
    pub async fn on_job_with(&self, command: &str, more: &[&str], environment: &[(&str, &str)]) -> Outcome {
        let mut command = self.job_command(command, more);
        command.envs(environment.iter().copied());
        self.outcome(command).await
    }

    /// How `enrich run` ends, with further arguments.
    pub async fn run(&self, more: &[&str]) -> Outcome {
        self.on_job("run", more).await
    }

    /// The same, with variables in the environment.
    pub async fn run_with(&self, more: &[&str], environment: &[(&str, &str)]) -> Outcome {
        self.on_job_with("run", more, environment).await
    }

    /// A run that goes on by itself.
    pub fn start(&self, more: &[&str]) -> Child {
        self.job_command("run", more).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// One of the program's commands on the job, once it has stopped at a fault point.
    pub async fn stopped(&self, command: &str, point: &str) -> Child {
        let mut command = self.job_command(command, &[]);
        let child = command.env("ENRICH_FAULT", point).stderr(Stdio::piped()).spawn().unwrap();
        until_stopped(&child).await;
        child
    }
}

/// Which passing of a fault point a test is about: the second, or the first of one that a short run passes once.
pub fn nth(action: &str) -> u32 {
    if action == "metrics-commit" { 1 } else { 2 }
}
