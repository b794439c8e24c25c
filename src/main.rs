//! Temporary.
fn main() -> anyhow::Result<()> {
    rustls::crypto::ring::default_provider().install_default().ok();
    switchyard::telemetry::log::start(switchyard::telemetry::log::Format::detect(), "info");
    let path: std::path::PathBuf = std::env::args().nth(3).unwrap().into();
    let loaded = switchyard::config::load(&path)
        .map_err(|e| anyhow::anyhow!(e.render(switchyard::config::diagnostics::Form::Plain)))?;
    let listeners = switchyard::http::Listeners::inherit()?;
    let rt = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    rt.block_on(async {
        let stop = tokio_util::sync::CancellationToken::new();
        let s2 = stop.clone();
        let t = switchyard::tasks::Tasks::new();
        t.spawn_detached(async move {
            let mut s = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
            s.recv().await;
            s2.cancel();
        });
        switchyard::daemon::run(switchyard::daemon::Options { path, loaded, listeners }, stop, || ()).await
    })?;
    Ok(())
}
