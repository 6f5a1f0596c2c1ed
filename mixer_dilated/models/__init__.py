"""Models: the Mixer (`mixer.MlpMixer`) and what it costs (`costs`)."""
