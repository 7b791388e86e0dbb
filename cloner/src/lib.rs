//! Copies the bytes of one volume to another. Knows no Kubernetes.
