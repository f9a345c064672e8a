//! Keys and certificates: read again when they are refused, and those of a company's gateway.

use enrich::simulator::{Gate, Simulator};
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use enrich::config::SimulatorSpec;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use crate::support::{World, append_delta, rows, wait};

async fn world(provider: &str) -> World {
    let folder = tempfile::tempdir().unwrap();
    let taken = folder.path().join("taken");
    fs::write(&taken, "key-1\n").unwrap();
    let spec =
        SimulatorSpec { api_keys_file: Some(taken.to_str().unwrap().to_owned()), ..SimulatorSpec::default() };
    let simulator = Simulator::start(spec, 0).await.unwrap();
    let world = World { folder, simulator };
    append_delta(&world.path("source"), &rows(0..200)).await;
    world.write_job(provider);
    fs::write(world.path("key"), "key-1\n").unwrap();
    world
}

fn refused(world: &World) -> u64 {
    world.simulator.counts().statuses.get(&401).copied().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_expires_is_read_again_and_the_run_goes_on() {
    for provider in ["api_key_file = \"key\"", "api_key_command = [\"sh\", \"-c\", \"sleep 0.1; cat key\"]"] {
        let world = world(provider).await;
        world.simulator.set_gate(Gate::ShutFrom(1));
        let mut command = world.job_command("run", &[]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        for key in ["key-2", "key-3"] {
            let shut_from = world.simulator.counts().requests + 41;
            world.simulator.set_gate(Gate::ShutFrom(shut_from));
            // Four of them are in flight, and none of them will be refused.
            world.until_requests(shut_from + 3).await;
            for file in ["key", "taken"] {
                // A reader finds the one or the other, and no half of it.
                fs::write(world.path("new"), key).unwrap();
                fs::rename(world.path("new"), world.path(file)).unwrap();
            }
        }
        world.simulator.set_gate(Gate::Open);
        wait(child).await.assert_status(0).assert_says("200 answers, 0 errors").assert_says(" 0 retries");
        world.assert_target(0..200).await;
        assert!((1..=8).contains(&refused(&world)), "{} refusals of four in flight", refused(&world));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_stays_refused_stops_the_run_and_says_why_there_is_no_other() {
    let world = world("api_key_file = \"key\"").await;
    fs::write(world.path("taken"), "another\n").unwrap();
    let same = world.run(&[]).await;
    same.assert_status(4).assert_says("auth: HTTP 401 invalid_api_key");
    assert_eq!(refused(&world), 1, "the same key is not sent again");
    // It is there at the start, and gone when it is refused.
    world.write_job("api_key_command = [\"sh\", \"-c\", \"cat key && rm key\"]");
    let gone = world.run(&[]).await;
    gone.assert_status(4)
        .assert_says("the key cannot be read again: it names the command")
        .assert_says("No such file");
    world.run(&[]).await.assert_status(2).assert_says("`provider.sim.api_key_command` names the command");
    world.write_job("api_key_command = []");
    world.run(&[]).await.assert_status(2).assert_says("it names a program, and its arguments after it");
    world.write_job("api_key_file = \"key\"\napi_key_command = [\"cat\", \"key\"]");
    world.run(&[]).await.assert_status(2).assert_says("and api_key_file are both set; keep one");
}

/// An authority and what it vouches for, in PEM.
struct Certificates {
    authority: String,
    server: (String, String),
    client: (String, String),
}

fn certificates() -> Certificates {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let signed = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &authority);
        (certificate.unwrap().pem(), key.serialize_pem())
    };
    Certificates { server: signed("127.0.0.1"), client: signed("client"), authority: authority.pem() }
}

/// A gateway that speaks TLS in front of a simulator, and asks for certificates of its clients; its port.
async fn gateway(world: &World, certificates: &Certificates) -> (u16, JoinSet<()>) {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(certificates.authority.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().unwrap();
    let chain = vec![CertificateDer::from_pem_slice(certificates.server.0.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(certificates.server.1.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let behind = world.simulator.url().socket_addrs(|| None).unwrap()[0];
    let mut server = JoinSet::new();
    server.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            connections.spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut behind = TcpStream::connect(behind).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut behind).await;
            });
        }
    });
    (port, server)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_of_a_company_is_trusted_and_shown_a_certificate() {
    let world = World::with_rows(12, 1).await;
    let certificates = certificates();
    let (port, _server) = gateway(&world, &certificates).await;
    for (name, text) in [
        ("ca.pem", &certificates.authority),
        ("client.pem", &certificates.client.0),
        ("client.key", &certificates.client.1),
    ] {
        fs::write(world.path(name), text).unwrap();
    }
    fs::write(world.path("none.pem"), "not a certificate").unwrap();
    let plain = world.simulator.url().as_str();
    let job = |provider: &str| {
        world.write_text(&world.usual_job(provider).replace(plain, &format!("https://127.0.0.1:{port}/v1")));
    };
    let limits = "outage_deadline = \"1s\"\nmax_attempts = 1";
    let ours = "client_certificate = \"client.pem\"\nclient_key = \"client.key\"";
    // Nobody vouches for it, or it does not know us.
    for (provider, says) in
        [(ours, "goes into ca_file"), ("ca_file = \"ca.pem\"", "it asks for a certificate of ours")]
    {
        job(&format!("{limits}\n{provider}"));
        world.run(&[]).await.assert_status(4).assert_says(says);
    }
    world.write_text(&world.usual_job(limits).replace(plain, &plain.replace("http:", "https:")));
    world.run(&[]).await.assert_status(4).assert_says("speaks no TLS: should base_url begin with http://?");
    assert_eq!(world.simulator.counts().requests, 0, "nothing got through");
    for (provider, says) in [
        ("ca_file = \"no.pem\"", "no.pem, which cannot be read"),
        ("ca_file = \"none.pem\"", "none.pem, which is no PEM file"),
        ("client_key = \"client.key\"", "is set without client_certificate"),
    ] {
        job(provider);
        world.run(&[]).await.assert_status(2).assert_says(says);
    }
    job(&format!("ca_file = \"ca.pem\"\n{ours}"));
    world.run(&[]).await.assert_status(0);
    world.assert_target(0..12).await;
    assert!(Path::new(&world.path("target")).exists());
}
