"""One script per paper; see README.md here."""
import gpt  # before any script imports torch: it sets how torch's threads wait
