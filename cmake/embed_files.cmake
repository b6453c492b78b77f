# Files as part of the binary: embed_files(TARGET FUNCTION HEADER FILE...) adds a source to TARGET that defines
# FUNCTION(), a span of EmbeddedFile (HEADER declares both), and is made again when one of the files changes.
# Run as a script it writes that source. Bytes as numbers, not .incbin: the compiler then needs no path, and every
# build, cross or with sanitizers, is the same.
if(NOT CMAKE_SCRIPT_MODE_FILE)
  function(embed_files target function header)
    set(source ${CMAKE_CURRENT_BINARY_DIR}/generated/${function}.cc)
    list(JOIN ARGN "|" files)
    add_custom_command(OUTPUT ${source}
      COMMAND ${CMAKE_COMMAND} -D source=${source} -D function=${function} -D header=${header} -D "files=${files}"
        -P ${CMAKE_CURRENT_FUNCTION_LIST_FILE}
      DEPENDS ${ARGN} ${CMAKE_CURRENT_FUNCTION_LIST_FILE}
      COMMENT "Embedding ${function}" VERBATIM)
    target_sources(${target} PRIVATE ${source})
  endfunction()
  return()
endif()

string(REPLACE "|" ";" files "${files}")
set(arrays "")
set(rows "")
set(number 0)
foreach(file IN LISTS files)
  get_filename_component(name ${file} NAME)
  file(SHA256 ${file} hash)
  string(SUBSTRING ${hash} 0 16 hash)
  file(READ ${file} bytes HEX)
  string(REGEX REPLACE "(................................)" "\\1\n" bytes "${bytes}")
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "'\\\\x\\1'," bytes "${bytes}")
  string(APPEND arrays "constexpr char bytes_${number}[] = {\n${bytes}};\n")
  string(APPEND rows "    {\"${name}\", \"\\\"${hash}\\\"\", {bytes_${number}, sizeof bytes_${number}}},\n")
  math(EXPR number "${number} + 1")
endforeach()
file(WRITE ${source} "// Made by cmake/embed_files.cmake.
#include \"${header}\"

namespace lowbit {
namespace {

${arrays}
constexpr EmbeddedFile files[] = {
${rows}};

}  // namespace

std::span<const EmbeddedFile> ${function}() { return files; }

}  // namespace lowbit
")
