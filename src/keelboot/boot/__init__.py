"""What firmware and boot loaders read: Boot Loader Specification entries, kernel arguments, the files on an ESP."""
