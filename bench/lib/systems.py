"""Names of the systems that are compared, as tables and goals call them."""

FASTNW = "fastnw"
FASTNW_GAUSSIAN = "fastnw, Gaussian"
FASTNW_COMPILED = "fastnw, compiled"
FASTNW_EXACT = "fastnw, every pair"
NUMPY = "NumPy, differences"
NUMPY_PRODUCT = "NumPy, matrix product"
RBF_KERNEL = "scikit-learn rbf_kernel"
SKLEARN_KDE = "scikit-learn KernelDensity"
CDIST = "torch cdist + softmax"
SDPA = "torch SDPA"
KEOPS = "KeOps CPU"
KERNEL_REG = "statsmodels KernelReg"
MLPACK = "mlpack KDE"
KDEPY = "KDEpy TreeKDE"
CEILING = "ceiling of the pipes"
READ = "one read of the data"

DENSE = (SDPA, NUMPY_PRODUCT)
ALL = (SDPA, KEOPS, CDIST, NUMPY, NUMPY_PRODUCT, RBF_KERNEL, KERNEL_REG, SKLEARN_KDE, MLPACK, KDEPY)
