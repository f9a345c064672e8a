//! The command `enrich serve`.

use std::io::Read;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::exit::{Exit, misuse};
use super::job::SetArguments;
use super::output::{self, Console, LogFormat};
use super::signals;
use crate::config::{Keys, Share, duration};
use crate::event::Voice;
use crate::progress::{self, Log};
use crate::run::{End, RunError, StopRequest};
use crate::serve::{HttpSettings, ServedListener, serve as serve_http, tls};
use crate::service::{Service, ServiceOptions};
use crate::simulator::Simulator;
use crate::tally::Tally;

/// Longest time for answering the requests that are under way when the command ends.
const LAST_REQUESTS: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
pub(super) struct ServeArguments {
    /// The job file; it needs neither source nor target
    job: PathBuf,
    #[command(flatten)]
    set: SetArguments,
    /// Address to listen at; one that is not loopback needs --token-file
    #[arg(long, default_value = "127.0.0.1:8090", value_name = "HOST:PORT")]
    listen: SocketAddr,
    /// File with the bearer token that clients have to send
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// PEM file with the certificates for TLS, the server's own first
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// PEM file with the key of the certificate
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// End when the standard input is closed, as it is when the program that started this one is gone
    #[arg(long)]
    with_parent: bool,
    /// How long rows are sent, and outcomes kept, after the last client that waited for them
    #[arg(long, default_value = "30s", value_parser = duration, value_name = "TIME")]
    keep: Duration,
    /// Serve as number k of K servers, from 0: with its part of the limits and of the budget
    #[arg(long, value_name = "k/K", value_parser = share)]
    share: Option<Share>,
    /// How long requests in flight may still take once the command begins to stop
    #[arg(long, default_value = "30s", value_parser = duration, value_name = "TIME")]
    grace: Duration,
    /// Serve Prometheus metrics at http://HOST:PORT/metrics
    #[arg(long, value_name = "HOST:PORT")]
    metrics_addr: Option<SocketAddr>,
    /// Print only problems
    #[arg(long, short)]
    quiet: bool,
    /// Format of messages on standard error; RUST_LOG sets how much is logged
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    log_format: LogFormat,
}

fn share(text: &str) -> Result<Share, String> {
    let parsed = text.split_once('/').and_then(|(number, of)| {
        Some(Share { number: number.parse().ok()?, of: of.parse::<NonZeroU32>().ok()? })
    });
    match parsed {
        Some(share) if share.number < share.of.get() => Ok(share),
        _ => Err("it is k/K, with k from 0 to K - 1, as in 0/2".to_owned()),
    }
}

pub(super) async fn serve(arguments: ServeArguments) -> anyhow::Result<Exit> {
    let console = Console::new(arguments.log_format);
    let attempt = attempt(&arguments, &console);
    Ok(attempt.await.unwrap_or_else(|error| super::explain(&error, &console)))
}

async fn attempt(arguments: &ServeArguments, console: &Console) -> anyhow::Result<Exit> {
    let token = arguments.token_file.as_deref().map(read_token).transpose()?;
    if token.is_none() && !arguments.listen.ip().is_loopback() {
        misuse!(
            "--listen {}: anybody who reaches this address could spend the job's money; give clients a token with --token-file",
            arguments.listen
        );
    }
    let tls = match (&arguments.tls_cert, &arguments.tls_key) {
        (Some(certificate), Some(key)) => Some(tls(certificate, key)?),
        _ => None,
    };
    let mut tasks = JoinSet::new();
    let stop = stop_requests(arguments, console, &mut tasks)?;
    let mut job = arguments.set.load_served(&arguments.job, Keys::Read)?;
    if let Some(share) = arguments.share {
        job.take_share(share);
    }
    console.names_job(&job.app_id);
    console.start_log(if arguments.quiet { "off,enrich=warn" } else { "off,enrich=info" });
    let tally = Tally::default();
    let simulator = match &job.simulator {
        Some(spec) if job.simulated => Some(Simulator::start(spec.clone(), 0).await?),
        _ => None,
    };
    if let Some(address) = arguments.metrics_addr {
        let served = progress::scrape(address, job.app_id.clone(), tally.clone(), &mut tasks).await;
        let served = served.with_context(|| format!("--metrics-addr: cannot listen at {address}"))?;
        tracing::info!("figures are at http://{served}/metrics");
    }
    let voice = Voice::new(vec![Box::new(tally.clone()), Box::new(Log::with_reasons())]);
    let options = ServiceOptions { keep: arguments.keep, grace: arguments.grace };
    // Before the port is open nobody waits at it for a service that does not come about.
    let listener = ServedListener::bind(arguments.listen, tls).await;
    let listener = listener.with_context(|| format!("--listen: cannot listen at {}", arguments.listen))?;
    let url = simulator.as_ref().map(|simulator| simulator.url().clone());
    let service = Arc::new(Service::start(job, options, stop.clone(), url, voice).await?);
    let (close, closed) = watch::channel(false);
    output::data(listener.url()?)?;
    let http = HttpSettings { token, status_of: |end| status(end) as u8 };
    let mut server = JoinSet::new();
    server.spawn(serve_http(Arc::clone(&service), listener, http, until(closed)));

    let end = service.ended().await;
    let exit = status(&end);
    match &*end {
        Ok(End::Stopped) => {}
        ended => {
            match ended {
                Ok(end) => console.problem(end.message().unwrap_or_else(|| end.word().to_owned()), None),
                Err(error) => _ = super::report_run_error(error, console),
            }
            console.talk("nothing is sent any more; clients are told why until this command is stopped");
            let mut stop = stop;
            let _ = stop.wait_for(|request| *request != StopRequest::None).await;
        }
    }
    close.send_replace(true);
    let _ = timeout(LAST_REQUESTS, server.join_next()).await;
    Ok(exit)
}

/// The exit status that stands for an end. A service that is stopped has done what it is for.
fn status(end: &Result<End, RunError>) -> Exit {
    match end {
        Ok(End::Stopped) => Exit::Done,
        Ok(end) => Exit::of(end.kind()),
        Err(error) => super::exit_of(error),
    }
}

async fn until(mut closed: watch::Receiver<bool>) {
    let _ = closed.wait_for(|closed| *closed).await;
}

fn read_token(path: &Path) -> anyhow::Result<String> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => misuse!("--token-file {}: {error}", path.display()),
    };
    match text.trim() {
        "" => misuse!("--token-file {}: the file is empty", path.display()),
        token => Ok(token.to_owned()),
    }
}

/// Returns what asks the service to stop: signals and, with `--with-parent`, the end of the standard input.
fn stop_requests(
    arguments: &ServeArguments,
    console: &Console,
    tasks: &mut JoinSet<()>,
) -> anyhow::Result<watch::Receiver<StopRequest>> {
    let mut signals = signals::watch_signals(console)?;
    if !arguments.with_parent {
        return Ok(signals);
    }
    let (sender, receiver) = watch::channel(StopRequest::None);
    let raise = move |sender: &watch::Sender<StopRequest>, request: StopRequest| {
        sender.send_if_modified(|now| {
            let is_more = request > *now;
            *now = request.max(*now);
            is_more
        });
    };
    let of_parent = sender.clone();
    std::thread::Builder::new().name("parent".to_owned()).spawn(move || {
        let mut buffer = [0; 1_024];
        let mut input = std::io::stdin().lock();
        // Whatever is written there means nothing.
        while input.read(&mut buffer).is_ok_and(|read| read > 0) {}
        raise(&of_parent, StopRequest::Gently);
    })?;
    tasks.spawn(async move {
        while signals.changed().await.is_ok() {
            let request = *signals.borrow_and_update();
            raise(&sender, request);
        }
    });
    Ok(receiver)
}
