"""A cluster that a real kubeadm makes: a control plane of static pods, and workers that join it."""
