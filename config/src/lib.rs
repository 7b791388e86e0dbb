//! How a process lives: settings, telemetry, admin endpoint, shutdown, supervisor, client, certificates.
