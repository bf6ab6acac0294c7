"""The method "fourier": non-uniform fast Fourier transforms for the Gaussian in up to three coordinates."""
