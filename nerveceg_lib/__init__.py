"""NerveCeg: two-stage ultrasound nerve segmentation, shared code of the numbered notebooks."""

__version__ = "0.1.0"
