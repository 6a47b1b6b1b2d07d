//! [`Traces`]: spans to an OpenTelemetry collector, over OTLP/HTTP.

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::Targets;

use crate::config::{Config, setting};
use crate::failure::{Exit, Failure};
use crate::logs::Listener;
use crate::tls;

/// Traces on their way; sent off when dropped.
#[derive(Debug)]
pub(crate) struct Traces(SdkTracerProvider);

impl Traces {
    /// Starts to send them; `None` when no collector is set.
    ///
    /// # Errors
    /// [`Failure`] when a setting is wrong. A collector that is not there fails nothing: what cannot be sent is dropped.
    pub(crate) fn start(config: &Config) -> Result<Option<Self>, Failure> {
        let Some(endpoint) = config.text(&setting::OTEL_ENDPOINT) else { return Ok(None) };
        let rate = config.share(&setting::OTEL_SAMPLE_RATE)?;
        tls::install();
        let exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
            .build()
            .map_err(|error| Failure::new(Exit::Usage, "traces cannot be sent").because(error))?;
        let mut about = vec![KeyValue::new("service.version", env!("CARGO_PKG_VERSION"))];
        if let Some(name) = config.text(&setting::ENVIRONMENT) {
            about.push(KeyValue::new("deployment.environment.name", name.to_owned()));
        }
        let resource = Resource::builder().with_service_name("pgw").with_attributes(about).build();
        let provider = SdkTracerProvider::builder()
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(rate))))
            .with_resource(resource)
            .with_batch_exporter(exporter)
            .build();
        Ok(Some(Self(provider)))
    }

    /// What turns our spans into theirs. Ours only: those of the libraries that send them would never end.
    pub(crate) fn listener(&self) -> Listener {
        let layer = tracing_opentelemetry::layer()
            .with_tracer(self.0.tracer("pgw"))
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false);
        let ours = Targets::new()
            .with_target("pgw", LevelFilter::INFO)
            // The span of a request says as much as its line.
            .with_target(pgw_http::telemetry::ACCESS, LevelFilter::OFF);
        layer.with_filter(ours).boxed()
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        if let Err(error) = self.0.shutdown() {
            tracing::warn!(%error, "the last traces were not sent");
        }
    }
}
