// The Python face of the reader and the sampler: checks arguments, releases the GIL, names errors.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "fasta.hpp"
#include "genome.hpp"
#include "random.hpp"
#include "sampler.hpp"

namespace py = pybind11;
using namespace nucel;

namespace {

template <class T>
using Array = py::array_t<T, py::array::c_style>;

template <class T>
void require_vector(const Array<T>& array, py::ssize_t size, const char* name) {
    if (array.ndim() != 1 || array.shape(0) != size) {
        throw py::value_error(std::string(name) + " must have the shape (" + std::to_string(size) + ",)");
    }
}

ByteTable table_of(const Array<std::uint8_t>& values) {
    require_vector(values, 256, "a table");
    return ByteTable(values.data());
}

std::shared_ptr<Fasta> open_fasta(const py::bytes& path, const Array<std::uint8_t>& classes, int threads) {
    const ByteTable table = table_of(classes);
    const std::string name(path);
    const py::gil_scoped_release release;
    return std::make_shared<Fasta>(name, table, threads);
}

// Names are bytes: what encoding they have is not for this file to know.
py::list names(const Fasta& fasta) {
    py::list all;
    for (const Record& record : fasta.records()) all.append(py::bytes(record.name));
    return all;
}

Array<std::int64_t> entries(const Fasta& fasta) {
    Array<std::int64_t> table({static_cast<py::ssize_t>(fasta.records().size()), py::ssize_t{4}});
    std::int64_t* out = table.mutable_data();
    for (const Record& r : fasta.records()) {
        for (const std::int64_t value : {r.length, r.offset, r.line_bases, r.line_width}) *out++ = value;
    }
    return table;
}

template <std::int64_t ClassCounts::* Class>
Array<std::int64_t> bases_in(const Fasta& fasta) {
    Array<std::int64_t> bases(static_cast<py::ssize_t>(fasta.class_counts().size()));
    std::int64_t* out = bases.mutable_data();
    for (const ClassCounts& counts : fasta.class_counts()) *out++ = counts.*Class;
    return bases;
}

Array<std::int64_t> byte_counts(const Fasta& fasta) {
    Array<std::int64_t> counts(py::ssize_t{256});
    std::copy(fasta.byte_counts().begin(), fasta.byte_counts().end(), counts.mutable_data());
    return counts;
}

std::int64_t header_line(const Fasta& fasta, std::size_t record) {
    if (record >= fasta.records().size()) throw py::index_error("no such record");
    return fasta.line_of(fasta.records()[record].header);
}

std::shared_ptr<Genome> genome_of(const std::vector<std::shared_ptr<Fasta>>& files) {
    for (const auto& file : files) {
        if (!file) throw py::type_error("a file is None");
    }
    return std::make_shared<Genome>(std::vector<std::shared_ptr<const Fasta>>(files.begin(), files.end()));
}

Array<std::uint8_t> fetch(const Genome& genome, std::int64_t contig, std::int64_t start, std::int64_t end,
                          const Array<std::uint8_t>& values, bool reverse) {
    const ByteTable table = table_of(values);
    if (contig < 0 || contig > INT32_MAX) throw std::out_of_range("no such contig");
    if (end < start) throw py::value_error("end lies before start");
    genome.at(contig, start, end - start);
    Array<std::uint8_t> letters(end - start);
    std::uint8_t* out = letters.mutable_data();
    const py::gil_scoped_release release;
    genome.fetch(contig, start, end, table, reverse, out);
    return letters;
}

Array<std::int64_t> sum(const Genome& genome, const Array<std::int32_t>& contig, const Array<std::int64_t>& start,
                        std::int64_t count, const Array<std::uint8_t>& values, int threads) {
    const ByteTable table = table_of(values);
    require_vector(start, start.size(), "start");
    require_vector(contig, start.size(), "contig");
    Array<std::int64_t> totals(start.size());
    std::int64_t* out = totals.mutable_data();
    const py::gil_scoped_release release;
    genome.sum(contig.data(), start.data(), start.size(), count, table, threads, out);
    return totals;
}

Array<std::int64_t> permutation(std::int64_t n, std::uint64_t seed, std::uint64_t epoch) {
    if (n < 1) throw py::value_error("n must be positive");
    Array<std::int64_t> order(n);
    std::int64_t* out = order.mutable_data();
    const py::gil_scoped_release release;
    const Permutation permute(static_cast<std::uint64_t>(n), stream_key(seed, Purpose::order, epoch));
    for (std::int64_t i = 0; i < n; ++i) out[i] = static_cast<std::int64_t>(permute(static_cast<std::uint64_t>(i)));
    return order;
}

std::vector<Group> groups_of(const Array<std::int64_t>& table, std::int64_t windows) {
    if (table.ndim() != 2 || table.shape(1) != 2) throw py::value_error("groups must have the shape (n, 2)");
    const auto at = table.unchecked<2>();
    std::vector<Group> groups;
    std::int64_t rows = 0;
    for (py::ssize_t i = 0; i < at.shape(0); ++i) {
        const Group group{at(i, 0), at(i, 1)};
        if (group.windows < 1 || group.windows > windows || group.rows < 1 || group.rows > (INT64_MAX >> 1) - rows) {
            throw py::value_error("a group has no windows or rows, or more than there can be");
        }
        windows -= group.windows;
        rows += group.rows;
        groups.push_back(group);
    }
    if (windows != 0 || groups.empty()) throw py::value_error("the groups must cover all windows");
    return groups;
}

// A sampler that owns what it borrows: the genome and the arrays of windows.
class OwningSampler {
  public:
    // The sampler, once it is certain that it can work with these arguments; ValueError names the first that is wrong.
    static std::unique_ptr<OwningSampler> checked(std::shared_ptr<const Genome> genome, Array<std::int32_t> contig,
                                                  Array<std::int64_t> start, const Array<std::int64_t>& groups,
                                                  std::int64_t window_bp, std::int64_t context, std::uint64_t seed,
                                                  bool both_strands, const Array<std::uint8_t>& forward,
                                                  const Array<std::uint8_t>& reverse, std::uint8_t first_token) {
        const std::int64_t size = start.size();
        require_vector(start, size, "start");
        require_vector(contig, size, "contig");
        if (size == 0) throw py::value_error("there are no windows");
        if (context < 2 || context - 1 > window_bp) throw py::value_error("context - 1 must lie in [1, window_bp]");
        WindowList windows{contig.data(), start.data(), size, window_bp, groups_of(groups, size)};
        const RowOptions options{context, seed, both_strands, table_of(forward), table_of(reverse), first_token};
        return std::unique_ptr<OwningSampler>(
            new OwningSampler(std::move(genome), std::move(contig), std::move(start), std::move(windows), options));
    }

    py::tuple rows(std::int64_t first_row, std::int64_t count, int threads) const {
        if (first_row < 0 || count < 0 || first_row > INT64_MAX - count) throw py::value_error("rows out of range");
        Array<std::uint8_t> tokens({static_cast<py::ssize_t>(count), static_cast<py::ssize_t>(context_)});
        Array<std::int32_t> contig(count);
        Array<std::int64_t> start(count);
        Array<std::int8_t> strand(count);
        const Rows out{tokens.mutable_data(), contig.mutable_data(), start.mutable_data(), strand.mutable_data()};
        {
            const py::gil_scoped_release release;
            sampler_.fill(first_row, count, threads, out);
        }
        return py::make_tuple(tokens, contig, start, strand);
    }

  private:
    // `windows` points into `contig` and `start`, whose memory stays where it is when they are moved.
    OwningSampler(std::shared_ptr<const Genome> genome, Array<std::int32_t> contig, Array<std::int64_t> start,
                  WindowList windows, const RowOptions& options)
        : genome_(std::move(genome)), contig_(std::move(contig)), start_(std::move(start)), context_(options.context),
          sampler_(*genome_, std::move(windows), options) {}

    std::shared_ptr<const Genome> genome_;
    Array<std::int32_t> contig_;
    Array<std::int64_t> start_;
    std::int64_t context_;
    Sampler sampler_;
};

}  // namespace

void bind_kernels(py::module_& m);  // bind_kernels.cpp

// No call needs the GIL: what Python holds never changes once it is built, and each call writes to arrays of its own.
// Long calls release it anyway, so the arrays that a call reads must not be written to meanwhile, with or without it.
PYBIND11_MODULE(_nucel, m, py::mod_gil_not_used()) {
    m.doc() =
        "FASTA bytes to token windows, and kernels for CPUs. Use it through nucel.genome and nucel.kernels, which "
        "check.";
    m.attr("__version__") = NUCEL_VERSION;

    py::register_local_exception<FormatError>(m, "FormatError", PyExc_ValueError);
    py::register_local_exception_translator([](std::exception_ptr thrown) {
        try {
            if (thrown) std::rethrow_exception(thrown);
        } catch (const std::system_error& error) {
            // The message may hold a path, which need not be UTF-8.
            const auto text = py::reinterpret_steal<py::object>(PyUnicode_DecodeFSDefault(error.what()));
            PyErr_SetObject(PyExc_OSError, py::make_tuple(error.code().value(), text).ptr());
        }
    });

    // The classes of bases, bits that a table of 256 bytes adds up.
    m.attr("GC") = static_cast<int>(BaseClass::gc);
    m.attr("MASKED") = static_cast<int>(BaseClass::masked);
    m.attr("UNKNOWN") = static_cast<int>(BaseClass::unknown);

    py::class_<Fasta, std::shared_ptr<Fasta>>(m, "Fasta", py::module_local(), "A mapped FASTA file that was checked.")
        .def(py::init(&open_fasta), py::arg("path"), py::arg("classes"), py::arg("threads"),
             "Reads every byte; classes gives each byte the sum of its classes. "
             "FormatError names the first wrong line.")
        .def_property_readonly("names", &names, "First word of each header, n of them, bytes.")
        .def_property_readonly("entries", &entries, "int64 (n, 4): length, offset, line_bases, line_width.")
        .def_property_readonly("gc_bp", &bases_in<&ClassCounts::gc>, "Bases of each record in class GC, int64 (n,).")
        .def_property_readonly("masked_bp", &bases_in<&ClassCounts::masked>, "As gc_bp, in class MASKED.")
        .def_property_readonly("unknown_bp", &bases_in<&ClassCounts::unknown>, "As gc_bp, in class UNKNOWN.")
        .def_property_readonly("byte_counts", &byte_counts, "Bases of the file by byte, int64 (256,).")
        .def("header_line", &header_line, py::arg("record"), "1-based number of the line with a record's header.")
        .def("require_unchanged", &Fasta::require_unchanged, "OSError if the file is not what it was when opened.");

    py::class_<Genome, std::shared_ptr<Genome>>(m, "Genome", py::module_local(), "The contigs of several files.")
        .def(py::init(&genome_of), py::arg("files"))
        .def("fetch", &fetch, py::arg("contig"), py::arg("start"), py::arg("end"), py::arg("table"), py::arg("reverse"),
             "table[letter] of the bases [start, end), read backwards on demand; uint8.")
        .def("sum", &sum, py::arg("contig").noconvert(), py::arg("start").noconvert(), py::arg("count"),
             py::arg("table"), py::arg("threads"), "Sums of table[letter] over `count` bases from each start; int64.");

    py::class_<OwningSampler>(m, "Sampler", py::module_local(), "Rows as a pure function of (seed, row number).")
        .def(py::init(&OwningSampler::checked), py::arg("genome").none(false), py::arg("contig").noconvert(),
             py::arg("start").noconvert(), py::arg("groups"), py::arg("window_bp"), py::arg("context"), py::arg("seed"),
             py::arg("both_strands"), py::arg("forward"), py::arg("reverse"), py::arg("first_token"))
        .def("rows", &OwningSampler::rows, py::arg("first_row"), py::arg("count"), py::arg("threads"),
             "(tokens (count, context), contig, start, strand) of the rows from first_row on.");

    m.def("permutation", &permutation, py::arg("n"), py::arg("seed"), py::arg("epoch"),
          "The order of n windows in an epoch, int64 (n,).");

    bind_kernels(m);
}
