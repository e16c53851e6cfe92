"""What chat requests and image requests share: the declaration of fields and the base class."""
