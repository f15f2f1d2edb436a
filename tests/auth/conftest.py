from hypothesis import settings

# A busy machine is not a fault of the code under test.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")
