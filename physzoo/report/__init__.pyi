from .page import page as page
from .write import Check as Check
from .write import judge as judge
from .write import published_means as published_means
from .write import report as report
from .write import verdict as verdict
from .write import write_report as write_report
